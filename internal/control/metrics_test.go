package control

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"corewire/dataplane"
	"corewire/internal/packet"
)

// number gives every counter of a value a number of its own, from n on, and returns the next and how many they are. Fields
// that are left out have their name in skip.
func number(v reflect.Value, path string, n uint64, skip map[string]string, seen map[uint64]string) uint64 {
	if _, ok := skip[path]; ok {
		return n
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			n = number(v.Field(i), path+"."+v.Type().Field(i).Name, n, skip, seen)
		}
	case reflect.Array:
		for i := range v.Len() {
			n = number(v.Index(i), fmt.Sprintf("%s[%d]", path, i), n, skip, seen)
		}
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
		seen[n] = path
		n++
	case reflect.Uint64:
		v.SetUint(n)
		seen[n] = path
		n++
	}
	return n
}

// leaves collects the numbers of a decoded JSON value by path.
func leaves(v any, path string, out map[string]uint64) {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			leaves(e, path+"."+k, out)
		}
	case []any:
		for i, e := range x {
			leaves(e, fmt.Sprintf("%s[%d]", path, i), out)
		}
	case json.Number:
		n, err := strconv.ParseUint(x.String(), 10, 64)
		if err != nil {
			panic(err)
		}
		out[path] = n
	}
}

// TestSameCounters: what the engine counts is in the API's statistics, and those are in the metrics, and nothing else is.
func TestSameCounters(t *testing.T) {
	// One worker, so that its numbers and the totals are the same.
	in := dataplane.Stats{Workers: make([]dataplane.WorkerStats, 1)}
	skip := map[string]string{
		".Worker":                "a name",
		".Counters.Verdict[0]":   "pending: never seen outside a burst",
		".Counters.Drop[0]":      "no reason",
		".Wire.Port[0].RX":       "the port's own count",
		".Wire.Port[0].TX":       "the port's own count",
		".Wire.Port[1].RX":       "the port's own count",
		".Wire.Port[1].TX":       "the port's own count",
		".Conntrack.PassedBy[0]": "no reason", ".Conntrack.InvalidBy[0]": "no reason", ".Fragments.Broken[0]": "no reason", ".Regrouped.Broken[0]": "no reason",
	}
	counted := map[uint64]string{}
	n := number(reflect.ValueOf(&in.Workers[0]).Elem(), "", 1000, skip, counted)
	for i := range packet.Problems { // what is no header's problem drops no frame
		if p := packet.Problem(i); !p.Header() {
			at := len(in.Workers[0].Counters.Drop) - int(packet.Problems) + int(i)
			delete(counted, in.Workers[0].Counters.Drop[at])
			in.Workers[0].Counters.Drop[at] = 0
		}
	}
	rest := in
	rest.Workers = nil
	number(reflect.ValueOf(&rest).Elem(), "", n, nil, counted)
	workers := in.Workers
	in = rest
	in.Workers = workers

	out := newStats(&in)
	out.XDP = map[string]map[string]uint64{"inside": {"redirected": 700}, "outside": {"dropped": 701}}
	text, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	var decoded any
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(&decoded); err != nil {
		t.Fatal(err)
	}
	told := map[string]uint64{}
	leaves(decoded, "", told)
	listed := map[uint64][]string{}
	for path, v := range told {
		listed[v] = append(listed[v], path)
	}
	for v, path := range counted {
		if listed[v] == nil {
			t.Errorf("the engine's %s is not in the statistics", path)
		}
	}

	shown := map[uint64]string{}
	metrics := make(chan prometheus.Metric, 1<<12)
	c := newCollector(nil)
	emit := func(d *prometheus.Desc, v float64, labels ...string) {
		m := prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
		metrics <- m
	}
	c.counters(&out, func(d *prometheus.Desc, v uint64, labels ...string) { emit(d, float64(v), labels...) }, emit)
	close(metrics)
	for m := range metrics {
		var x dto.Metric
		if err := m.Write(&x); err != nil {
			t.Fatal(err)
		}
		v := x.GetGauge().GetValue()
		if strings.Contains(m.Desc().String(), "_seconds") {
			v *= float64(time.Second)
		}
		n := uint64(math.Round(v))
		shown[n] = m.Desc().String()
		if n != 0 && listed[n] == nil {
			t.Errorf("the metric %s = %d is not in the statistics", m.Desc(), n)
		}
	}
	for v, paths := range listed {
		if v != 0 && shown[v] == "" && paths[0] != ".entries" { // the sum of corewire_conntrack_entries
			t.Errorf("of the statistics %s is not in the metrics", paths)
		}
	}
	if len(shown) < 150 {
		t.Errorf("only %d metrics", len(shown))
	}
}

// TestMetricsServed: what the test above calls is what is served.
func TestMetricsServed(t *testing.T) {
	r := newRig(t, 2, map[string]string{"metrics-rules": "1"})
	r.send(packet.Inside, dns(1))
	w := httptest.NewRecorder()
	r.firewall.metricsHandler().ServeHTTP(w, httptest.NewRequest("GET", pathMetrics, nil))
	for _, line := range []string{`corewire_answered_frames_total{worker="1"} 0`, `corewire_events_total{outcome="lost",worker="0"} 0`, `corewire_expect_stat_total{stat="create"} 0`,
		`corewire_conntrack_stat_total{stat="insert",worker="`, `corewire_rule_packets_total{`, `corewire_event_listeners 0`, `corewire_recompiled_total 0`, `corewire_up 1`} {
		if !strings.Contains(w.Body.String(), line) {
			t.Errorf("no %s in\n%s", line, w.Body.String())
		}
	}
}
