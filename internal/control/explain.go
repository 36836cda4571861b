package control

import (
	"context"
	"fmt"
	"strings"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/rules"
)

// ExplainRequest is a frame to be explained.
type ExplainRequest struct {
	Frame []byte `json:"frame"` // base64 in JSON
	In    string `json:"in"`    // inside or outside
	State string `json:"state"` // NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED in any case; "": what connection tracking says
}

// Explained is what would become of a frame, and why.
type Explained struct {
	Verdict    string          `json:"verdict"` // accept, drop, or hold for a fragment
	Reason     string          `json:"reason,omitempty"`
	Rule       string          `json:"rule,omitempty"`       // what decided
	State      string          `json:"state,omitempty"`      // as the rules see it
	Why        string          `json:"why,omitempty"`        // of the state
	Connection string          `json:"connection,omitempty"` // as it is found in the table, as conntrack -L prints it
	Windows    []string        `json:"windows,omitempty"`    // of a TCP connection: what its tracker compares with, by direction
	Steps      []ExplainedStep `json:"steps"`
	Cached     string          `json:"cached,omitempty"` // the rule of the verdict that is cached, and used instead
	Cache      string          `json:"cache,omitempty"`  // whether the verdict would be cached, and why not
}

// ExplainedStep is a rule that was tried.
type ExplainedStep struct {
	Rule    string `json:"rule"` // "FORWARD 3"
	Place   string `json:"place"`
	Text    string `json:"text"`
	Matched bool   `json:"matched"`
	Why     string `json:"why,omitempty"` // what did not hold
	Did     string `json:"did,omitempty"`
}

// PortNamed returns the port that a request names.
func PortNamed(name string) (packet.Port, error) {
	for p := range packet.Port(packet.Ports) {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, &requestError{fmt.Errorf("port %q: expected inside or outside", name)}
}

// NewExplained makes an Explanation readable.
func NewExplained(x *dataplane.Explanation) Explained {
	out := Explained{Verdict: x.Verdict.String(), Reason: x.Reason.String(), Steps: []ExplainedStep{}}
	if !x.Judged {
		if x.Verdict == dataplane.Hold {
			out.Why = "a fragment waits for the rest of its datagram, which is judged as a whole"
		}
		return out
	}
	rs := x.Ruleset
	for _, steps := range [][]rules.Step{x.RawSteps, x.Steps} {
		for _, s := range steps {
			r, _ := rs.Rule(s.Rule)
			out.Steps = append(out.Steps, ExplainedStep{Rule: rs.RuleName(s.Rule), Place: fmt.Sprintf("%s:%d", r.Rule.Pos.File, r.Rule.Pos.Line),
				Text: string(r.Rule.AppendSave(nil, r.Chain)), Matched: s.Matched, Why: s.Why, Did: s.Did})
		}
	}
	out.Rule = rs.RuleName(x.Rule)
	if len(x.Steps) == 0 && x.Raw.Verdict != rules.Accept {
		return out // dropped before tracking
	}
	out.State = x.State.String()
	switch {
	case !x.Tracked:
		out.Why = "as given"
	case x.State == conntrack.StateInvalid && x.Known:
		out.Why = "its connection is known, but: " + x.Invalid.String()
	case x.State == conntrack.StateInvalid:
		out.Why = x.Invalid.String()
	case x.State == conntrack.StateUntracked:
		out.Why = "exempt from tracking"
	case x.Known:
		out.Why = "its connection is known, and it runs in the " + map[conntrack.Dir]string{conntrack.Original: "original", conntrack.Reply: "reply"}[x.Dir] + " direction"
	case x.Expected != conntrack.HelperNone:
		out.Why = "the helper " + x.Expected.String() + " of another connection expects it"
	default:
		out.Why = "no connection is known with these addresses and ports"
	}
	if x.Known {
		out.Connection = string(x.Before.AppendLine(nil, conntrack.FormatExtended))
	}
	if x.HasTCP {
		for d, side := range x.TCP.Side {
			out.Windows = append(out.Windows, fmt.Sprintf("%s: sent up to %d, may send up to %d, largest window %d, scale %d", [...]string{"original", "reply"}[d], side.End, side.MaxEnd, side.MaxWin, side.Scale))
		}
	}
	switch {
	case x.Cached:
		out.Cached = rs.RuleName(x.CachedRule)
		out.Cache = "a verdict is cached for this direction and state, and is used without trying rules"
	case !x.Known && x.Verdict != dataplane.Accept:
		out.Cache = "not cached: a connection that does not begin has no entry"
	case x.Cacheable:
		out.Cache = "the verdict is cached on the connection"
	case len(x.Asked) > 0:
		out.Cache = "not cached, for what was asked may differ from packet to packet: "
		for i, what := range x.Asked {
			if i > 0 {
				out.Cache += ", "
			}
			out.Cache += what
		}
	default:
		out.Cache = "not cached: verdicts are not, of packets of this state or kind"
	}
	return out
}

// ParseState reads the name of a connection state; nil for "".
func ParseState(name string) (*conntrack.State, error) {
	if name == "" {
		return nil, nil
	}
	for s := range conntrack.States {
		if strings.EqualFold(s.String(), name) {
			return &s, nil
		}
	}
	return nil, &requestError{fmt.Errorf("state %q: expected NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED", name)}
}

// Explain says what would become of a frame now, and changes nothing.
func (f *Firewall) Explain(ctx context.Context, r ExplainRequest) (Explained, error) {
	in, err := PortNamed(r.In)
	if err != nil {
		return Explained{}, err
	}
	state, err := ParseState(r.State)
	if err != nil {
		return Explained{}, err
	}
	x, err := f.engine.Explain(ctx, r.Frame, in, state)
	if err != nil {
		return Explained{}, err
	}
	return NewExplained(&x), nil
}
