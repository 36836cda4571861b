package rules

// Language returns the options of all matches and targets that rules may have, each as its module with its spellings, the
// first of which is the usual one: {"tcp", "--source-port", "--sport"}. Targets are "-j NAME".
func Language() (out [][]string) {
	for k, list := range [][]module{modules, targets} {
		for i := range list {
			m := &list[i]
			name := m.name
			if k == 1 {
				name = "-j " + name
			}
			at := map[uint8]int{}
			for _, o := range m.options {
				if n, ok := at[o.id]; ok {
					out[n] = append(out[n], "--"+o.name)
					continue
				}
				at[o.id] = len(out)
				out = append(out, []string{name, "--" + o.name})
			}
		}
	}
	return out
}
