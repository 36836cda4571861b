package main

import (
	"context"
	"fmt"

	"corewire/internal/control"
)

// stats is what the demo needs of corewire's counters.
type stats struct {
	Inside, Outside   control.PortCounters
	Accepted, Dropped uint64
	Chunks            control.Chunks
	Rules             []ruleCount
}

// ruleCount is a rule or a policy with its counters.
type ruleCount struct {
	Name    string // "FORWARD 3", "FORWARD policy"
	Text    string // as iptables-save writes it
	Packets uint64
	Bytes   uint64
}

// frames returns the port counters as the hosts see them.
func (s *stats) frames() linkFrames {
	return linkFrames{fromClient: s.Inside.RxFrames, toClient: s.Inside.TxFrames, fromServer: s.Outside.RxFrames, toServer: s.Outside.TxFrames}
}

// stats asks the running firewall, by the verbs that an operator has.
func (f *firewall) stats(ctx context.Context) (*stats, error) {
	var all control.Stats
	if err := f.decode(ctx, &all, "stats", "--json"); err != nil {
		return nil, err
	}
	s := &stats{
		Inside:   all.Total.Ports["inside"],
		Outside:  all.Total.Ports["outside"],
		Accepted: all.Total.Verdicts["accept"],
		Dropped:  all.Total.Verdicts["drop"],
		Chunks:   all.Total.Chunks,
	}
	var chains []control.ChainCounters
	if err := f.decode(ctx, &chains, "rules", "--json"); err != nil {
		return nil, err
	}
	for _, c := range chains {
		for _, r := range c.Rules {
			s.Rules = append(s.Rules, ruleCount{fmt.Sprintf("%s %d", c.Chain, r.Number), r.Save, r.Packets, r.Bytes})
		}
		if c.Policy != "" {
			s.Rules = append(s.Rules, ruleCount{c.Chain + " policy", c.Policy, c.Packets, c.Bytes})
		}
	}
	return s, nil
}
