package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"corewire/internal/ipset"
)

// The paths of the API about sets.
const (
	pathSets       = "/v1/sets"         // GET: []ipset.Listing; query name, members, sorted
	pathSetSave    = "/v1/sets/save"    // GET: what ipset save prints; query name, sorted
	pathSetDo      = "/v1/sets/do"      // POST of SetCommand: SetAnswer
	pathSetRestore = "/v1/sets/restore" // POST of what ipset save prints: SetAnswer; query exist
)

// SetCommand is one command of ipset's, such as add NAME 10.0.0.1.
type SetCommand struct {
	Words []string `json:"words"`
	Exist bool     `json:"exist"` // what exists already, or is missing already, is no error
}

// SetAnswer is the answer to a command.
type SetAnswer struct {
	Yes bool `json:"yes"` // of test: the element is in the set
}

// maxRestore bounds a request of commands, in bytes: some million elements.
const maxRestore = 256 << 20

// SetDo carries out a command about sets. Every packet that is taken after it returns is judged by the sets as they are.
func (f *Firewall) SetDo(ctx context.Context, c SetCommand) (SetAnswer, error) {
	f.change.Lock()
	defer f.change.Unlock()
	before := f.sets.Generation()
	yes, err := f.sets.Do(c.Words, c.Exist, f.engine.Now())
	if err != nil {
		return SetAnswer{}, &requestError{err}
	}
	return SetAnswer{yes}, f.tellSets(ctx, before)
}

// SetRestore carries out many commands, all or none.
func (f *Firewall) SetRestore(ctx context.Context, text []byte, exist bool) error {
	f.change.Lock()
	defer f.change.Unlock()
	before := f.sets.Generation()
	if err := f.sets.Restore("restore", text, exist, f.engine.Now()); err != nil {
		return &requestError{err}
	}
	return f.tellSets(ctx, before)
}

// tellSets forgets the cached verdicts for which sets were asked when sets in use have changed.
func (f *Firewall) tellSets(ctx context.Context, before uint64) error {
	if f.sets.Generation() == before {
		return nil
	}
	return f.engine.SetsChanged(ctx)
}

// Sets lists one set, or all of them for the empty name.
func (f *Firewall) Sets(name string, members, sorted bool) ([]ipset.Listing, error) {
	list, err := f.sets.List(name, members, sorted, f.engine.Now())
	if err != nil {
		return nil, &requestError{err}
	}
	return list, nil
}

// SaveSets returns what `ipset save` would print.
func (f *Firewall) SaveSets(name string, sorted bool) ([]byte, error) {
	text, err := f.sets.AppendSave(nil, name, sorted, f.engine.Now())
	if err != nil {
		return nil, &requestError{err}
	}
	return text, nil
}

// serveSave is the handler of a save. A set may have millions of elements: the reader has its time for each piece.
func (f *Firewall) serveSave(w http.ResponseWriter, r *http.Request) {
	text, err := f.SaveSets(r.URL.Query().Get("name"), setFlag(r, "sorted"))
	s := newStream(w, typeLines)
	if e := s.extend(); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		respond(w, statusOf(err), Error{err.Error()})
		return
	}
	for piece := range slices.Chunk(text, 1<<20) {
		if err = s.extend(); err == nil {
			_, err = s.Write(piece)
		}
		if err != nil {
			break
		}
	}
	s.end("save sets", err)
}

// setFlag reads a query's switch.
func setFlag(r *http.Request, name string) bool {
	v, err := strconv.ParseBool(r.URL.Query().Get(name))
	return err == nil && v
}

// restoreSets is the handler of a restore.
func (f *Firewall) restoreSets(ctx context.Context, r *http.Request) (any, error) {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxRestore+1))
	if err != nil {
		return nil, &requestError{fmt.Errorf("read request: %w", err)}
	}
	if len(text) > maxRestore {
		return nil, &requestError{fmt.Errorf("restore sets: more than %d bytes", maxRestore)}
	}
	return SetAnswer{true}, f.SetRestore(ctx, text, setFlag(r, "exist"))
}

// SetDo carries out a command about sets, of the words that ipset takes.
func (c *Client) SetDo(ctx context.Context, command SetCommand) (bool, error) {
	a, err := call[SetAnswer](ctx, c, http.MethodPost, pathSetDo, nil, command)
	return a.Yes, err
}

// SetRestore carries out the commands that r has, all or none. All of it is read before any is sent.
func (c *Client) SetRestore(ctx context.Context, r io.Reader, exist bool) error {
	text, err := io.ReadAll(io.LimitReader(r, maxRestore+1))
	if err != nil {
		return fmt.Errorf("read sets: %w", err)
	}
	if len(text) > maxRestore {
		return fmt.Errorf("restore sets: more than %d bytes (restore them in several parts)", maxRestore)
	}
	response, err := c.send(ctx, http.MethodPost, pathSetRestore, url.Values{"exist": {strconv.FormatBool(exist)}}, "text/plain", bytes.NewReader(text))
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// Sets lists one set, or all of them for the empty name.
func (c *Client) Sets(ctx context.Context, name string, members, sorted bool) ([]ipset.Listing, error) {
	q := url.Values{"name": {name}, "members": {strconv.FormatBool(members)}, "sorted": {strconv.FormatBool(sorted)}}
	return call[[]ipset.Listing](ctx, c, http.MethodGet, pathSets, q, nil)
}

// SaveSets writes to w what `ipset save` would print.
func (c *Client) SaveSets(ctx context.Context, w io.Writer, name string, sorted bool) error {
	return c.copy(ctx, pathSetSave, url.Values{"name": {name}, "sorted": {strconv.FormatBool(sorted)}}, w)
}
