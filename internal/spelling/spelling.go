// Package spelling tells how far apart two words are, for hints such as "did you mean …?". What is near enough to be meant
// is the asking room's business.
package spelling

// Distance is Levenshtein's: how many bytes must be added, removed or replaced to make b of a. It takes time and, for b,
// memory by the product and the length: the caller bounds both words.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := corner
			if a[i] != b[j] {
				replace++
			}
			corner = row[j+1]
			row[j+1] = min(replace, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
