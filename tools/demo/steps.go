package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"corewire/tools/lab"
)

// datagramSize is larger than the lab's MTU: three fragments each way.
const datagramSize = 4000

// steps returns what the demo shows, in order.
func steps(l *lab.Lab, h *hosts, f *firewall, o options) []step {
	var before portSettings // of the wire's ports, as the lab made them
	var base frameBase      // from when on frames are compared
	all := []step{
		{"nothing passes without corewire", true, func(ctx context.Context) (observation, error) {
			var err error
			if before, err = readPortSettings(l); err != nil {
				return observation{}, err
			}
			for _, family := range []int{4, 6} {
				if err := unanswered(ctx, l, family); err != nil {
					return observation{}, err
				}
			}
			return observation{seen: "no answer to pings over IPv4 and IPv6"}, nil
		}},
		{"corewire run", true, func(ctx context.Context) (observation, error) {
			if err := f.start(ctx); err != nil {
				return observation{}, err
			}
			var err error
			if base, err = newFrameBase(ctx, l, f); err != nil {
				return observation{}, err
			}
			return observation{fmt.Sprintf("process %d answers on its control socket", f.command.Process.Pid), f.announced()}, nil
		}},
	}
	for _, family := range []int{4, 6} {
		all = append(all, traffic(l, h, f, o, family)...)
	}
	all = append(all,
		step{"tracked connections", false, func(ctx context.Context) (observation, error) { return connections(ctx, l, f) }},
		step{"every frame crossed corewire", false, func(ctx context.Context) (observation, error) { return everyFrame(ctx, l, f, base) }},
		step{"counters", false, func(ctx context.Context) (observation, error) { return counters(ctx, f) }},
		step{"killed with -9, the wire is closed", false, func(ctx context.Context) (observation, error) {
			if err := f.kill(); err != nil {
				return observation{}, err
			}
			for _, family := range []int{4, 6} {
				if err := unanswered(ctx, l, family); err != nil {
					return observation{}, err
				}
			}
			return observation{seen: "no answer to pings: what passed before, passed through corewire"}, nil
		}},
		step{"started again, the wire is open", false, func(ctx context.Context) (observation, error) {
			if err := f.start(ctx); err != nil {
				return observation{}, err
			}
			for _, family := range []int{4, 6} {
				if _, err := answered(ctx, l, family, 1, 56); err != nil {
					return observation{}, err
				}
			}
			return observation{seen: "pings are answered again"}, nil
		}},
	)
	if !o.stay {
		all = append(all, step{"stopped, nothing is left", false, func(ctx context.Context) (observation, error) {
			if err := f.stop(); err != nil {
				return observation{}, err
			}
			after, err := readPortSettings(l)
			if err != nil {
				return observation{}, err
			}
			if difference := before.difference(after); difference != "" {
				return observation{}, errors.New(difference)
			}
			return observation{seen: "exit status 0; no XDP program, no pins, interface settings as before"}, nil
		}})
	}
	return all
}

// traffic returns the steps of one IP version.
func traffic(l *lab.Lab, h *hosts, f *firewall, o options, family int) []step {
	title := func(s string) string { return fmt.Sprintf("IPv%d: %s", family, s) }
	return []step{
		{title("ping"), false, func(ctx context.Context) (observation, error) {
			// The first one waits for the neighbours to find each other, so its time says nothing about the wire.
			if _, err := answered(ctx, l, family, 1, 56); err != nil {
				return observation{}, err
			}
			small, err := answered(ctx, l, family, 5, 56)
			if err != nil {
				return observation{}, err
			}
			large, err := answered(ctx, l, family, 2, l.MTU()-48) // 40 bytes of IPv6 header, 8 of ICMPv6
			return observation{seen: fmt.Sprintf("5 of 5 small ones answered (%s), 2 of 2 large ones (%s)", small, large)}, err
		}},
		{title(fmt.Sprintf("HTTP download of %d MB", o.size/1e6)), false, func(ctx context.Context) (observation, error) {
			took, err := h.download(ctx, family)
			if err != nil {
				return observation{}, err
			}
			return observation{seen: fmt.Sprintf("SHA-256 %s… is the same at both ends, %.0f Mbit/s", h.sum[:12], float64(o.size)*8/1e6/took.Seconds())}, nil
		}},
		{title(fmt.Sprintf("blocked port %d", portTelnet)), false, func(ctx context.Context) (observation, error) {
			return dropped(ctx, f, func(r ruleCount) bool { return strings.Contains(r.Text, commentTelnet) }, func() error {
				return h.blocked(ctx, lab.Client, hiddenPort{lab.Server, family, portTelnet})
			})
		}},
		{title("connection from outside"), false, func(ctx context.Context) (observation, error) {
			return dropped(ctx, f, func(r ruleCount) bool { return r.Name == policyForward }, func() error {
				return h.blocked(ctx, lab.Server, hiddenPort{lab.Client, family, portAdmin})
			})
		}},
		{title("datagram larger than the MTU"), false, func(ctx context.Context) (observation, error) {
			before, err := readReassembled(l, family)
			if err != nil {
				return observation{}, err
			}
			if err := h.datagram(ctx, family, datagramSize); err != nil {
				return observation{}, err
			}
			after, err := readReassembled(l, family)
			if err != nil {
				return observation{}, err
			}
			if after.client <= before.client || after.server <= before.server {
				return observation{}, fmt.Errorf("no fragments were seen: reassembled %d → %d at the client, %d → %d at the server",
					before.client, after.client, before.server, after.server)
			}
			return observation{seen: fmt.Sprintf("%d bytes over UDP, in fragments both ways, came back unchanged", datagramSize)}, nil
		}},
	}
}

// answered pings the server from the client and expects every reply.
func answered(ctx context.Context, l *lab.Lab, family, count, size int) (string, error) {
	replies, least, most, err := ping(ctx, l, lab.Client, l.Addr(lab.Server, family), count, size, patience/5)
	if err != nil {
		return "", err
	}
	if replies != count {
		return "", fmt.Errorf("IPv%d: %d of %d pings with %d bytes were answered", family, replies, count, size)
	}
	if count == 1 {
		return fmt.Sprintf("%.2f ms", milliseconds(least)), nil
	}
	return fmt.Sprintf("%.2f to %.2f ms", milliseconds(least), milliseconds(most)), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// unanswered pings the server from the client and expects no reply.
func unanswered(ctx context.Context, l *lab.Lab, family int) error {
	replies, _, _, err := ping(ctx, l, lab.Client, l.Addr(lab.Server, family), 2, 56, silence)
	if err != nil {
		return err
	}
	if replies > 0 {
		return fmt.Errorf("%d of 2 pings over IPv%d were answered: there is a way around corewire", replies, family)
	}
	return nil
}

// silence is how long a reply is waited for that must not come: a thousand times what an answer takes.
const silence = 150 * time.Millisecond

// dropped does something that the firewall must drop and looks for the rule that counted it.
func dropped(ctx context.Context, f *firewall, rule func(ruleCount) bool, attempt func() error) (observation, error) {
	before, err := f.stats(ctx)
	if err != nil {
		return observation{}, err
	}
	if err := attempt(); err != nil {
		return observation{}, err
	}
	after, err := f.stats(ctx)
	if err != nil {
		return observation{}, err
	}
	count := func(s *stats) (name, text string, n uint64) {
		for _, r := range s.Rules {
			if rule(r) {
				name, text = r.Name, r.Text
				n += r.Packets
			}
		}
		return name, text, n
	}
	_, _, was := count(before)
	name, text, is := count(after)
	switch {
	case name == "":
		return observation{}, errors.New("unanswered, but corewire does not list the rule that should have dropped it")
	case is == was:
		return observation{}, fmt.Errorf("unanswered, but rule %s (%s) counted nothing", name, text)
	}
	return observation{seen: fmt.Sprintf("no answer; %s dropped %d packets", name, is-was), lines: []string{name + ": " + text}}, nil
}

// connectionLine is a line as conntrack -L prints it (conntrack-tools, libnetfilter_conntrack's snprintf_default.c).
var connectionLine = regexp.MustCompile(`^(tcp|udp|icmp|icmpv6) +(6|17|1|58) \d+ ([A-Z_0-9]+ )?src=\S+ dst=\S+ (sport=\d+ dport=\d+|type=\d+ code=\d+ id=\d+) ` +
	`(packets=\d+ bytes=\d+ )?(\[UNREPLIED\] )?src=\S+ dst=\S+ (sport=\d+ dport=\d+|type=\d+ code=\d+ id=\d+) (packets=\d+ bytes=\d+ )?(\[ASSURED\] )?mark=\d+ (zone=\d+ )?use=\d+$`)

// connections expects a connection of each kind that the demo made, in the form of conntrack -L.
func connections(ctx context.Context, l *lab.Lab, f *firewall) (observation, error) {
	lines, err := f.connections(ctx)
	if err != nil {
		return observation{}, err
	}
	for _, line := range lines {
		if !connectionLine.MatchString(strings.TrimSpace(line)) {
			return observation{lines: []string{line}}, errors.New("corewire conntrack list printed a line that conntrack -L would not")
		}
	}
	var shown []string
	for _, want := range []struct {
		what  string
		parts []string
	}{
		{"download over IPv4", []string{"tcp ", "ASSURED", fmt.Sprintf("dst=%v sport", l.Addr(lab.Server, 4)), fmt.Sprintf("dport=%d ", portHTTP)}},
		{"download over IPv6", []string{"tcp ", "ASSURED", fmt.Sprintf("dst=%v sport", l.Addr(lab.Server, 6)), fmt.Sprintf("dport=%d ", portHTTP)}},
		{"datagram over IPv4", []string{"udp ", fmt.Sprintf("dst=%v sport", l.Addr(lab.Server, 4)), fmt.Sprintf("dport=%d ", portEcho)}},
		{"datagram over IPv6", []string{"udp ", fmt.Sprintf("dst=%v sport", l.Addr(lab.Server, 6)), fmt.Sprintf("dport=%d ", portEcho)}},
		{"ping over IPv4", []string{"icmp ", fmt.Sprintf("dst=%v type=8 ", l.Addr(lab.Server, 4))}},
		{"ping over IPv6", []string{"icmpv6 ", fmt.Sprintf("dst=%v type=128 ", l.Addr(lab.Server, 6))}},
	} {
		i := slices.IndexFunc(lines, func(line string) bool {
			for _, part := range want.parts {
				if !strings.Contains(line, part) {
					return false
				}
			}
			return true
		})
		if i < 0 {
			return observation{lines: lines[:min(len(lines), 12)]}, fmt.Errorf("the %s is not among the %d connections", want.what, len(lines))
		}
		shown = append(shown, strings.TrimSpace(lines[i]))
	}
	for _, line := range lines {
		if strings.Contains(line, fmt.Sprintf("dport=%d ", portTelnet)) || strings.Contains(line, fmt.Sprintf("dport=%d ", portAdmin)) {
			return observation{lines: []string{line}}, errors.New("a dropped attempt left a connection")
		}
	}
	return observation{fmt.Sprintf("%d, as conntrack -L prints them, none of a dropped attempt", len(lines)), shown}, nil
}

// frameBase is both sides' count of the frames that crossed the wire at one moment.
type frameBase struct{ links, corewire linkFrames }

// quiet is how long nothing may have been sent for both counts to be of the same moment.
const quiet = 30 * time.Millisecond

// newFrameBase reads both counts at a moment when no frame is on its way. The hosts send a few of their own accord
// (multicast reports), some of them before corewire had the ports.
func newFrameBase(ctx context.Context, l *lab.Lab, f *firewall) (frameBase, error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && ctx.Err() == nil; {
		before, err := readLinkFrames(l)
		if err != nil {
			return frameBase{}, err
		}
		time.Sleep(quiet)
		s, err := f.stats(ctx)
		if err != nil {
			return frameBase{}, err
		}
		after, err := readLinkFrames(l)
		if err != nil {
			return frameBase{}, err
		}
		if before == after {
			return frameBase{after, s.frames()}, nil
		}
	}
	return frameBase{}, errors.Join(ctx.Err(), errors.New("the hosts never stop sending"))
}

// everyFrame compares corewire's port counters with those of the hosts' interfaces at the other ends of the veth pairs.
func everyFrame(ctx context.Context, l *lab.Lab, f *firewall, base frameBase) (observation, error) {
	now, err := newFrameBase(ctx, l, f)
	if err != nil {
		return observation{}, err
	}
	want, got := now.links.since(base.links), now.corewire.since(base.corewire)
	if got != want {
		return observation{}, fmt.Errorf("interfaces counted %+v, corewire %+v", want, got)
	}
	return observation{seen: fmt.Sprintf("%d frames from the client, %d from the server: interfaces and corewire counted the same", got.fromClient, got.fromServer)}, nil
}

// counters expects that corewire's own books add up, and shows its rules.
func counters(ctx context.Context, f *firewall) (observation, error) {
	s, err := f.stats(ctx)
	if err != nil {
		return observation{}, err
	}
	lines := []string{fmt.Sprintf("%10s %12s  rule", "packets", "bytes")}
	for _, r := range s.Rules {
		lines = append(lines, fmt.Sprintf("%10d %12d  %-18s %s", r.Packets, r.Bytes, r.Name, r.Text))
	}
	if s.Accepted == 0 || s.Dropped == 0 {
		return observation{lines: lines}, fmt.Errorf("accepted %d, dropped %d: one of them cannot be", s.Accepted, s.Dropped)
	}
	if s.Inside.RxFrames+s.Outside.RxFrames != s.Accepted+s.Dropped {
		return observation{lines: lines}, fmt.Errorf("received %d frames, but accepted %d and dropped %d",
			s.Inside.RxFrames+s.Outside.RxFrames, s.Accepted, s.Dropped)
	}
	if !s.Chunks.Balanced {
		return observation{lines: lines}, fmt.Errorf("the UMEM's chunks do not add up: %+v", s.Chunks)
	}
	return observation{fmt.Sprintf("%d frames accepted, %d dropped, all %d UMEM chunks accounted for", s.Accepted, s.Dropped, s.Chunks.Total), lines}, nil
}
