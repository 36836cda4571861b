package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"corewire/internal/packet"
	"corewire/rules"
)

// RecentList is a list of -m recent.
type RecentList struct {
	List    string        `json:"list"`
	Size    int           `json:"size"` // addresses in it
	Entries []RecentEntry `json:"entries,omitempty"`
}

// RecentEntry is an address in a list, as /proc/net/xt_recent shows it.
type RecentEntry struct {
	Address string  `json:"address"`
	TTL     uint8   `json:"ttl"`
	Last    int64   `json:"last_seen_ms"` // on the firewall's clock, which begins with it
	Ago     int64   `json:"ago_ms"`       // Last before now
	Index   uint32  `json:"oldest_pkt"`   // place in Times that is written next
	Times   []int64 `json:"times_ms"`
	Line    string  `json:"line"` // the line of /proc/net/xt_recent, with ms for jiffies
}

// RecentChange changes a list: one of the three.
type RecentChange struct {
	List   string `json:"list"`
	Add    string `json:"add,omitempty"`    // an address to enter, or to see once more
	Remove string `json:"remove,omitempty"` // an address to forget
	Flush  bool   `json:"flush,omitempty"`  // forget all
}

// RecentChanged says how many addresses a change was about.
type RecentChanged struct {
	Changed int `json:"changed"`
}

// errNoList is the asker's mistake.
func errNoList(rs *rules.Ruleset, name string) error {
	names := rs.RecentLists()
	if len(names) == 0 {
		return &requestError{fmt.Errorf("list %q: %w (no rule has -m recent)", name, errUnknownList)}
	}
	return &requestError{fmt.Errorf("list %q: %w (there are: %s)", name, errUnknownList, strings.Join(names, ", "))}
}

var errUnknownList = errors.New("the rules in force have no such list")

// RecentLists returns the lists of -m recent; without their entries.
func (f *Firewall) RecentLists(ctx context.Context) ([]RecentList, error) {
	out := []RecentList{}
	err := f.engine.Recall(ctx, func(rs *rules.Ruleset, _ int64) error {
		for _, name := range rs.RecentLists() {
			l := RecentList{List: name}
			rs.RecentEntries(name, func(rules.RecentEntry) { l.Size++ })
			out = append(out, l)
		}
		return nil
	})
	return out, err
}

// Recent returns a list with its entries, the one least recently seen first.
func (f *Firewall) Recent(ctx context.Context, name string) (RecentList, error) {
	out := RecentList{List: name, Entries: []RecentEntry{}}
	err := f.engine.Recall(ctx, func(rs *rules.Ruleset, now int64) error {
		if !rs.RecentEntries(name, func(e rules.RecentEntry) {
			out.Size++
			out.Entries = append(out.Entries, RecentEntry{Address: e.Addr.String(), TTL: e.TTL, Last: e.Last(), Ago: now/1e6 - e.Last(), Index: e.Index, Times: e.Times, Line: string(e.AppendLine(nil))})
		}) {
			return errNoList(rs, name)
		}
		return nil
	})
	return out, err
}

// ChangeRecent changes a list.
func (f *Firewall) ChangeRecent(ctx context.Context, c RecentChange) (RecentChanged, error) {
	var out RecentChanged
	text := c.Add + c.Remove
	if (c.Add != "") == (c.Remove != "") == !c.Flush || c.Flush && text != "" {
		return out, &requestError{errors.New("change a list: one of add, remove and flush is wanted")}
	}
	var addr netip.Addr
	if !c.Flush {
		var err error
		if addr, err = netip.ParseAddr(text); err != nil || addr.Zone() != "" {
			return out, &requestError{fmt.Errorf("change list %q: %q is no address", c.List, text)}
		}
	}
	err := f.engine.Recall(ctx, func(rs *rules.Ruleset, now int64) error {
		a, v6, ok := packet.AddrFrom(addr), addr.Is6(), false
		switch {
		case c.Flush:
			out.Changed, ok = rs.RecentFlush(c.List)
		case c.Add != "":
			if ok = rs.RecentAdd(c.List, a, v6, now); ok {
				out.Changed = 1
			}
		default:
			var removed bool
			if removed, ok = rs.RecentRemove(c.List, a, v6); removed {
				out.Changed = 1
			}
		}
		if !ok {
			return errNoList(rs, c.List)
		}
		return nil
	})
	return out, err
}

// recentRoutes adds what concerns lists.
func (f *Firewall) recentRoutes(handle func(string, func(context.Context, *http.Request) (any, error))) {
	handle("GET "+pathRecent, func(ctx context.Context, r *http.Request) (any, error) {
		if name := r.URL.Query().Get("list"); name != "" {
			return f.Recent(ctx, name)
		}
		return f.RecentLists(ctx)
	})
	handle("POST "+pathRecent, func(ctx context.Context, r *http.Request) (any, error) {
		var c RecentChange
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			return nil, &requestError{fmt.Errorf("read request: %w (expected a RecentChange)", err)}
		}
		return f.ChangeRecent(ctx, c)
	})
}

// RecentLists asks for the lists of -m recent, without their entries.
func (c *Client) RecentLists(ctx context.Context) ([]RecentList, error) {
	return call[[]RecentList](ctx, c, http.MethodGet, pathRecent, nil, nil)
}

// Recent asks for a list with its entries.
func (c *Client) Recent(ctx context.Context, name string) (RecentList, error) {
	return call[RecentList](ctx, c, http.MethodGet, pathRecent, url.Values{"list": {name}}, nil)
}

// ChangeRecent changes a list.
func (c *Client) ChangeRecent(ctx context.Context, change RecentChange) (RecentChanged, error) {
	return call[RecentChanged](ctx, c, http.MethodPost, pathRecent, nil, change)
}
