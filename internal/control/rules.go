package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"corewire/dataplane"
	"corewire/internal/config"
	"corewire/rules"
)

// RuleChange is one change of the running rules: one of iptables' commands.
type RuleChange struct {
	Op     string   `json:"op"`              // append, insert, delete, replace, flush, policy, new-chain, delete-chain or zero
	Table  string   `json:"table,omitempty"` // "" is filter
	Family int      `json:"family"`          // 4, 6, or 0 for both
	Chain  string   `json:"chain"`           // "" for flush and zero: all chains
	Number int      `json:"number"`          // from 1; 0 for none
	Rule   []string `json:"rule,omitempty"`  // the words of the rule
	Policy string   `json:"policy,omitempty"`
}

// RuleChanged is what a change did.
type RuleChanged struct {
	Rules    int      `json:"rules"`    // number of rules in force now
	Changes  int      `json:"changes"`  // changes since the rule files were read
	Warnings []string `json:"warnings"` // what in the changed rules has no effect, and was not warned of before
}

// family returns the IP versions of a request.
func family(n int) (rules.Family, error) {
	switch n {
	case 0:
		return rules.Both, nil
	case 4:
		return rules.IPv4, nil
	case 6:
		return rules.IPv6, nil
	}
	return 0, &requestError{fmt.Errorf("family %d: expected 4, 6, or 0 for both", n)}
}

// ChangeRules changes the rules in force, or nothing (*RefusedError). The change lives until the rules are read again.
func (f *Firewall) ChangeRules(ctx context.Context, c RuleChange) (RuleChanged, error) {
	view, err := family(c.Family)
	if err != nil {
		return RuleChanged{}, err
	}
	f.change.Lock()
	defer f.change.Unlock()
	defer f.engine.KeepRuleset()()
	from := f.engine.Ruleset()
	if c.Op == "zero" {
		if c.Table == "" {
			c.Table = "filter"
		}
		ids, err := from.CounterIDs(c.Table, c.Chain, view, c.Number)
		if err != nil {
			return RuleChanged{}, &RefusedError{err}
		}
		_, err = f.engine.ZeroRules(ctx, from, ids)
		return RuleChanged{Rules: from.Len(), Changes: int(f.edits.Load()), Warnings: []string{}}, err
	}
	op, ok := rules.ParseEditOp(c.Op)
	if !ok {
		return RuleChanged{}, &requestError{fmt.Errorf("change rules: there is no operation %q", c.Op)}
	}
	options := f.Config().RuleOptions()
	options.Sets = f.sets
	to, m, err := from.Edit(rules.Edit{Op: op, Table: c.Table, Family: view, Chain: c.Chain, Number: c.Number, Rule: c.Rule, Policy: c.Policy,
		Source: "corewire rules " + c.Op, Line: int(f.edits.Load()) + 1}, options)
	if err != nil {
		return RuleChanged{}, &RefusedError{err}
	}
	if err := f.engine.SwapRuleset(ctx, dataplane.Swap{Ruleset: to, From: from, Mapping: m}); err != nil {
		return RuleChanged{}, err
	}
	known := map[rules.Warning]bool{}
	for _, w := range from.Warnings() {
		known[w] = true
	}
	answer := RuleChanged{Rules: to.Len(), Changes: int(f.edits.Add(1)), Warnings: []string{}}
	for _, w := range to.Warnings() {
		if !known[w] {
			answer.Warnings = append(answer.Warnings, w.String())
		}
	}
	return answer, nil
}

// SaveRules returns the rules in force as iptables-save prints them.
func (f *Firewall) SaveRules(ctx context.Context, form rules.SaveForm) ([]byte, error) {
	rs, counters, err := f.engine.RuleCounters(ctx)
	if err != nil {
		return nil, err
	}
	text, err := rs.AppendText(nil, form, counters)
	if err != nil {
		return nil, &RefusedError{err}
	}
	return text, nil
}

// Rules returns the rules in force with their counters: those for one IP version, or for both.
func (f *Firewall) Rules(ctx context.Context, view rules.Family) ([]ChainCounters, error) {
	rs, counters, err := f.engine.RuleCounters(ctx)
	if err != nil {
		return nil, err
	}
	return listRules(rs, counters, view), nil
}

// ReloadOptions are what a reload may be told beside the settings.
type ReloadOptions struct {
	Connections string `json:"connections,omitempty"` // keep or rejudge; "": what the setting reload-connections says
	Counters    string `json:"counters,omitempty"`    // keep or file; "": what the setting rule-counters says
}

// check refuses words that are not choices of the settings.
func (o *ReloadOptions) check() error {
	switch {
	case o.Connections != "" && o.Connections != "keep" && o.Connections != "rejudge":
		return &requestError{fmt.Errorf("reload connections %q: expected keep or rejudge", o.Connections)}
	case o.Counters != "" && o.Counters != "keep" && o.Counters != "file":
		return &requestError{fmt.Errorf("reload counters %q: expected keep or file", o.Counters)}
	}
	return nil
}

// Reload reads the settings and the rule files again and puts them in force, or refuses all of it (*RefusedError).
// Settings changed by Change, and rules changed by ChangeRules, go back to what flags, environment and files say.
//
// With rejudge it then goes through the connections, a few at a time and after the new rules are in force for every
// packet, and closes those that they would not let begin: see dataplane.Engine.Rejudge.
func (f *Firewall) Reload(ctx context.Context, o ReloadOptions) (Reloaded, error) {
	if err := o.check(); err != nil {
		return Reloaded{}, err
	}
	within, cancel := context.WithTimeout(ctx, loadTimeout)
	answer, rs, err := f.reload(within, &o)
	cancel()
	if err != nil {
		return Reloaded{}, err
	}
	if o.Connections == "rejudge" {
		// It may take long, and whatever else the operator wants does not wait for it.
		r, err := f.engine.Rejudge(ctx, rs)
		answer.Rejudged = &Rejudged{Judged: r.Judged, Closed: r.Closed}
		switch {
		case errors.Is(err, dataplane.ErrSuperseded):
			answer.Rejudged.Ended = err.Error()
		case err != nil:
			return Reloaded{}, fmt.Errorf("judge connections again: %w (the new rules are in force, %d connections of %d were closed)", err, r.Closed, r.Judged)
		}
	}
	return answer, nil
}

// reload is what of Reload is all or nothing. It completes the options from the settings.
func (f *Firewall) reload(ctx context.Context, o *ReloadOptions) (Reloaded, *rules.Ruleset, error) {
	f.change.Lock()
	defer f.change.Unlock()
	from := f.Config()
	to := from
	if f.options.Load != nil {
		var err error
		if to, err = f.options.Load(); err != nil {
			return Reloaded{}, nil, &RefusedError{err}
		}
	}
	if o.Connections == "" {
		o.Connections = to.ReloadConnections
	}
	if o.Counters == "" {
		o.Counters = to.RuleCounters
	}
	changes, err := config.Changes(from, to)
	if err != nil {
		return Reloaded{}, nil, &RefusedError{err}
	}
	stage, err := to.StageSets(f.sets, f.engine.Now())
	if err != nil {
		return Reloaded{}, nil, &RefusedError{err}
	}
	rs, err := to.LoadRulesFor(stage)
	if err != nil {
		return Reloaded{}, nil, &RefusedError{err}
	}
	swap := dataplane.Swap{Ruleset: rs}
	if o.Counters == "file" {
		swap.Counters, swap.Set = rs.FileCounters()
	}
	if err := f.apply(ctx, from, to, &swap, stage); err != nil {
		return Reloaded{}, nil, err
	}
	if changes == nil {
		changes = []config.Change{}
	}
	return Reloaded{Warnings: warnings(rs), Changes: changes, Rules: rs.Len(), Discarded: int(f.edits.Swap(0))}, rs, nil
}

// ruleRoutes adds the handlers of the rules. There may be hundreds of thousands: their listings have as long as a change.
func (f *Firewall) ruleRoutes(handle func(string, func(context.Context, *http.Request) (any, error)), mux *http.ServeMux) {
	handle("GET "+pathRules, func(ctx context.Context, r *http.Request) (any, error) { return f.Rules(ctx, viewOf(r)) })
	handle("POST "+pathRules, func(ctx context.Context, r *http.Request) (any, error) {
		var c RuleChange
		if err := decode(r, &c); err != nil {
			return nil, err
		}
		return f.ChangeRules(ctx, c)
	})
	handle("POST "+pathExplain, func(ctx context.Context, r *http.Request) (any, error) {
		var x ExplainRequest
		if err := decode(r, &x); err != nil {
			return nil, err
		}
		return f.Explain(ctx, x)
	})
	mux.HandleFunc("GET "+pathSave, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		q := r.URL.Query()
		form := rules.SaveForm{Family: viewOf(r), Table: q.Get("table"), Counters: rules.Counting(q.Get("counters") == "1")}
		text, err := f.SaveRules(ctx, form)
		if err != nil {
			respond(w, statusOf(err), Error{strings.TrimSuffix(err.Error(), "\nnothing was changed")})
			return
		}
		s := newStream(w, typeLines)
		if err = s.extend(); err == nil {
			_, err = s.Write(text)
		}
		s.end("save rules", err)
	})
}

// viewOf returns the IP versions that a query asks for.
func viewOf(r *http.Request) rules.Family {
	switch r.URL.Query().Get("family") {
	case "4":
		return rules.IPv4
	case "6":
		return rules.IPv6
	}
	return rules.Both
}

// decode reads a request's body, which may be empty.
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &requestError{fmt.Errorf("read request: %w", err)}
	}
	return nil
}
