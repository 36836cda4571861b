package control

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"corewire/internal/packet"
	"corewire/rules"
)

// scrapeTimeout bounds how long a scrape waits for the workers.
const scrapeTimeout = 2 * time.Second

// collector makes metrics of one snapshot of the counters, taken when it is scraped: the packet path knows nothing of
// Prometheus, and the numbers of a scrape belong together.
type collector struct {
	firewall *Firewall

	info, up                           *prometheus.Desc
	frames, bytes, verdicts, drops     *prometheus.Desc
	packets, classes, decisions        *prometheus.Desc
	entries, most, trackers, invalid   *prometheus.Desc
	handoffs, turns, longest           *prometheus.Desc
	chunks, held, fragments, wire, xdp *prometheus.Desc
	rulePackets, ruleBytes, reloads    *prometheus.Desc
	passed, buckets, answered, largest *prometheus.Desc
	limited                            *prometheus.Desc
	expected, mostExpected, expect     *prometheus.Desc
	events, expectEvents, listeners    *prometheus.Desc
	regrouped, recompiled              *prometheus.Desc
	logged                             *prometheus.Desc
}

func newCollector(f *Firewall) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("corewire_"+name, help, labels, nil)
	}
	return &collector{
		firewall:    f,
		info:        d("info", "What runs; always 1.", "version", "driver", "fail_mode"),
		up:          d("up", "1 while every worker answers, 0 otherwise; the other metrics are then missing."),
		frames:      d("frames_total", "Frames by port and direction.", "port", "direction"),
		bytes:       d("bytes_total", "Bytes of whole frames without FCS, by port and direction.", "port", "direction"),
		verdicts:    d("verdicts_total", "Frames by verdict. A held fragment is counted again when its datagram is judged.", "verdict"),
		drops:       d("drops_total", "Dropped frames by reason.", "reason"),
		packets:     d("packets_total", "Packets by connection state as the rules saw it; a fragmented datagram is one.", "state"),
		classes:     d("class_frames_total", "Frames by link-layer class.", "class"),
		decisions:   d("decisions_total", "Packets by how they were decided: by the verdict cached on their connection, or by walking the rules.", "by"),
		entries:     d("conntrack_entries", "Tracked connections, by worker.", "worker"),
		most:        d("conntrack_max", "Maximum of tracked connections over all workers."),
		trackers:    d("conntrack_stat_total", "Counters of connection tracking by the kernel's names.", "worker", "stat"),
		invalid:     d("conntrack_invalid_total", "INVALID packets by the check that failed.", "reason"),
		logged:      d("logged_total", "Packets of LOG and NFLOG rules, once for each rule: told, and lost because too many came at once.", "outcome"),
		handoffs:    d("handoff_frames_total", "Frames handed to other workers, and taken over from them.", "worker", "direction"),
		turns:       d("worker_turns_total", "Turns of a worker's loop: all, those that found a frame, and those after which it slept.", "worker", "kind"),
		longest:     d("worker_longest_turn_seconds", "Longest turn of a worker's loop, sleeping excluded.", "worker"),
		chunks:      d("umem_chunks", "UMEM chunks by where they are. Summed over the workers without total, caller's parts handed_off and held left out, they are the total.", "worker", "place"),
		held:        d("fragments_held", "Fragments that wait for the rest of their datagram.", "worker"),
		fragments:   d("fragments_total", "Fragments and datagrams by outcome.", "outcome"),
		wire:        d("port_stat_total", "Counters of a port's sockets; those that begin with xsk_ are the kernel's (XDP_STATISTICS).", "port", "stat"),
		xdp:         d("xdp_frames_total", "Frames by what the XDP program did with them.", "port", "action"),
		rulePackets: d("rule_packets_total", "Packets by rule, with the setting metrics-rules.", "family", "chain", "rule"),
		ruleBytes:   d("rule_bytes_total", "Bytes of IP datagrams by rule, with the setting metrics-rules.", "family", "chain", "rule"),
		passed:      d("conntrack_passed_total", "Packets that passed and changed nothing of their connection, by the check that they failed.", "reason"),
		buckets:     d("conntrack_buckets", "Buckets of the hash table, by worker.", "worker"),
		answered:    d("answered_frames_total", "Frames that REJECT rules sent back; they are in frames_total of their port, and in no verdict.", "worker"),
		limited:     d("limited_answers_total", "ICMP errors that REJECT rules did not send because of icmp_ratelimit or icmp_msgs_per_sec.", "worker"),
		largest:     d("worker_largest_burst_frames", "Largest burst of a worker.", "worker"),

		regrouped:    d("regrouped_total", "Fragments that other workers handed over and their datagrams, by outcome; they are in fragments_total as well.", "outcome"),
		expected:     d("expect_entries", "Connections that helpers expect."),
		mostExpected: d("expect_max", "Maximum of expected connections."),
		expect:       d("expect_stat_total", "Counters of what helpers expect, by the kernel's names (new: connections that came), and full: refused at the maximum.", "stat"),
		events:       d("events_total", "Events of connections, once for each listener: told to it, or lost because it was too slow.", "worker", "outcome"),
		expectEvents: d("expect_events_total", "Events of what helpers expect, once for each listener: told to it, or lost because it was too slow.", "outcome"),
		listeners:    d("event_listeners", "How many listen to events."),

		reloads:    d("reloads_total", "Rule sets put in force since start, the first not counted."),
		recompiled: d("recompiled_total", "Times that the rules in force were compiled anew in the background, after changes of single rules."),
	}
}

// Describe implements prometheus.Collector. It says nothing: which metrics there are depends on the ports and reasons.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	emit := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		emit(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		emit(d, prometheus.GaugeValue, v, labels...)
	}

	status := c.firewall.Status()
	gauge(c.info, 1, status.Version, status.Wire.Driver, status.Wire.FailMode)
	count(c.reloads, uint64(status.Reloads))
	count(c.recompiled, uint64(status.Recompiled))
	s, err := c.firewall.Stats(ctx)
	if err != nil {
		gauge(c.up, 0)
		return
	}
	gauge(c.up, 1)
	c.counters(&s, count, gauge)
	if !c.firewall.Config().MetricsRules {
		return
	}
	chains, err := c.firewall.Rules(ctx, rules.Both)
	if err != nil {
		return
	}
	for _, chain := range chains {
		for i := range chain.Rules {
			r := &chain.Rules[i]
			count(c.rulePackets, r.Packets, chain.Family, chain.Chain, strconv.Itoa(r.Number))
			count(c.ruleBytes, r.Bytes, chain.Family, chain.Chain, strconv.Itoa(r.Number))
		}
		if chain.Policy != "" {
			count(c.rulePackets, chain.Packets, chain.Family, chain.Chain, "policy")
			count(c.ruleBytes, chain.Bytes, chain.Family, chain.Chain, "policy")
		}
	}
}

// counters emits everything that Stats has: by worker where that tells more, else the total.
func (c *collector) counters(s *Stats, count func(*prometheus.Desc, uint64, ...string), gauge func(*prometheus.Desc, float64, ...string)) {
	t := &s.Total
	for p := range packet.Port(packet.Ports) {
		name := p.String()
		port := t.Ports[name]
		count(c.frames, port.RxFrames, name, "rx")
		count(c.frames, port.TxFrames, name, "tx")
		count(c.bytes, port.RxBytes, name, "rx")
		count(c.bytes, port.TxBytes, name, "tx")
		each(port.Wire, func(stat string, n uint64) { count(c.wire, n, name, stat) })
		each(s.XDP[name], func(action string, n uint64) { count(c.xdp, n, name, action) })
	}
	each(t.Verdicts, func(v string, n uint64) { count(c.verdicts, n, v) })
	each(t.Drops, func(r string, n uint64) { count(c.drops, n, r) })
	each(t.States, func(s string, n uint64) { count(c.packets, n, s) })
	each(t.Classes, func(k string, n uint64) { count(c.classes, n, k) })
	each(t.Invalid, func(r string, n uint64) { count(c.invalid, n, r) })
	each(t.Passed, func(r string, n uint64) { count(c.passed, n, r) })
	each(s.Expect.Counters, func(stat string, n uint64) { count(c.expect, n, stat) })
	gauge(c.expected, float64(s.Expect.Entries))
	gauge(c.mostExpected, float64(s.Expect.Max))
	count(c.expectEvents, s.Expect.Events.Told, "told")
	count(c.expectEvents, s.Expect.Events.Lost, "lost")
	gauge(c.listeners, float64(s.Listeners))
	each(t.Regrouped, func(o string, n uint64) { count(c.regrouped, n, o) })
	each(t.Fragments, func(o string, n uint64) { count(c.fragments, n, o) })
	count(c.decisions, t.Cached, "cached")
	count(c.decisions, t.Matched, "matched")
	count(c.logged, t.Logged, "told")
	count(c.logged, t.LogLost, "lost")
	gauge(c.most, float64(s.Max))
	for i := range s.Workers {
		w, id := &s.Workers[i], strconv.Itoa(i)
		gauge(c.entries, float64(w.Entries), id)
		gauge(c.buckets, float64(w.Buckets), id)
		count(c.answered, w.Answered, id)
		count(c.limited, w.Limited, id)
		gauge(c.largest, float64(w.MaxBurst), id)
		count(c.events, w.Events.Told, id, "told")
		count(c.events, w.Events.Lost, id, "lost")
		each(w.Conntrack, func(stat string, n uint64) { count(c.trackers, n, id, stat) })
		count(c.handoffs, w.Handed, id, "handed")
		count(c.handoffs, w.Taken, id, "taken")
		count(c.turns, w.Loops, id, "all")
		count(c.turns, w.Busy, id, "busy")
		count(c.turns, w.Sleeps, id, "slept")
		gauge(c.longest, time.Duration(w.MaxTurn).Seconds(), id)
		gauge(c.held, float64(w.Held), id)
		for _, place := range []struct {
			name string
			n    int
		}{
			{"total", w.Chunks.Total}, {"free", w.Chunks.Free}, {"returning", w.Chunks.Returning}, {"fill", w.Chunks.Fill}, {"rx", w.Chunks.RX}, {"tx", w.Chunks.TX},
			{"completion", w.Chunks.Completion}, {"caller", w.Chunks.Caller}, {"handed_off", w.Chunks.HandedOff}, {"held", w.Chunks.Held},
		} {
			gauge(c.chunks, float64(place.n), id, place.name)
		}
	}
}

// each calls f for the elements in the order of their names.
func each(m map[string]uint64, f func(name string, n uint64)) {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f(name, m[name])
	}
}

// metricsHandler serves the firewall's metrics and those of the process and the Go runtime.
func (f *Firewall) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(f), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 2 * scrapeTimeout, EnableOpenMetrics: true})
}
