package main

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"testing"

	"corewire/internal/control"
)

// fill gives every counter a number of its own: n and those that follow, by thousands, so that a time in ns is one in µs as
// well. Maps get an element for each port, or one.
func fill(v reflect.Value, path string, n *int, seen map[int]string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), path+"."+v.Type().Field(i).Name, n, seen)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, key := range []string{"inside", "outside"} {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, fmt.Sprintf("%s[%s]", path, key), n, seen)
			v.SetMapIndex(reflect.ValueOf(key), e)
		}
	case reflect.Int, reflect.Uint64:
		*n += 1000
		seen[*n] = path
		v.Set(reflect.ValueOf(*n).Convert(v.Type()))
	}
}

// TestPrintStats: `corewire stats --all` prints every counter of the statistics.
func TestPrintStats(t *testing.T) {
	var s control.Stats
	n, seen := 1_000_000, map[int]string{}
	fill(reflect.ValueOf(&s).Elem(), "", &n, seen)
	s.Workers = []control.Counters{s.Total}
	var b bytes.Buffer
	if err := printStats(&b, &s, true); err != nil {
		t.Fatal(err)
	}
	printed := map[int]bool{}
	for _, word := range regexp.MustCompile(`\d+`).FindAllString(b.String(), -1) {
		v, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		printed[v] = true
	}
	// The worker's line has the frames of both ports together, and the longest turn in µs.
	if rx := s.Total.Ports["inside"].RxFrames + s.Total.Ports["outside"].RxFrames; !printed[int(rx)] {
		t.Error("frames of a worker")
	}
	for v, path := range seen {
		if !printed[v] && !(path == ".Total.MaxTurn" && printed[v/1000]) {
			t.Errorf("%s is not printed", path)
		}
	}
	if t.Failed() {
		t.Log(b.String())
	}
}
