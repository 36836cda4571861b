package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"corewire/rules"
)

// BenchmarkCompile compiles rule sets. Beside the time it gives what compiling cost this process in processor time of all threads,
// and what does not depend on the machine: the work of a lookup and the size. CLASSBENCH names the directory
// of the ClassBench files.
func BenchmarkCompile(b *testing.B) {
	data := "../../../shared/data/classbench"
	if d := os.Getenv("CLASSBENCH"); d != "" {
		data = d
	}
	for _, name := range []string{"acl1_1k", "acl1_10k", "acl3_10k", "fw1_10k", "ipc1_10k", "flat_10000", "deep_10000", "acl1_100k", "fw1_100k", "flat_100000", "deep_100000"} {
		b.Run(name, func(b *testing.B) {
			o := options{data: data}
			set, err := o.load(name)
			if errors.Is(err, fs.ErrNotExist) {
				b.Skip(err)
			}
			if err != nil {
				b.Fatal(err)
			}
			our, err := newOwn(name, set, trace(set, 16384, 0.1))
			if err != nil {
				b.Fatal(err)
			}
			f, err := rules.Parse(name, ruleText(set), rules.IPv4)
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			begin := processorTime(b)
			for range b.N {
				if _, err := rules.Compile([]*rules.File{f}, rules.Options{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((processorTime(b)-begin)/float64(b.N), "cpu-ms/op")
			work, n := our.work()
			b.ReportMetric(float64(work.Trees)/float64(n), "trees")
			b.ReportMetric(float64(work.Nodes)/float64(n), "nodes")
			b.ReportMetric(float64(work.Entries)/float64(n), "entries")
			b.ReportMetric(float64(work.Lines)/float64(n), "lines")
			b.ReportMetric(float64(our.rs.Size())/1e6, "MB")
		})
	}
}

// processorTime returns the milliseconds that this process has computed for.
func processorTime(b *testing.B) float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e6
}
