package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"corewire/conntrack"
	"corewire/internal/config"
	"corewire/rules"
)

// ErrNotRunning says that nothing answers at the control socket.
var ErrNotRunning = errors.New("no corewire answers there")

// Client talks to a running firewall. It may be used by several goroutines.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client of the control socket at path. It connects with the first request.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, path)
		},
		DisableCompression: true,
	}
	return c
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// do sends a request and checks the answer's status. The caller closes the body.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	if body == nil {
		return c.send(ctx, method, path, query, "", nil)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, method, path, query, "application/json", bytes.NewReader(text))
}

// send sends a request with a body of the given type, or none, and checks the answer's status. The caller closes the body.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, kind string, reader io.Reader) (*http.Response, error) {
	target := url.URL{Scheme: "http", Host: "corewire", Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), reader)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if e, ok := errors.AsType[*socketError](err); ok {
			return nil, e
		}
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("ask the firewall at %s: %w", c.path, err)
	}
	if response.StatusCode < 400 {
		return response, nil
	}
	defer response.Body.Close()
	var answer Error
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxRequest))
	if json.Unmarshal(text, &answer) != nil || answer.Error == "" {
		answer.Error = strings.TrimSpace(string(text))
	}
	return nil, &RemoteError{Status: response.StatusCode, Message: answer.Error}
}

// RemoteError is an error that the running firewall answered with.
type RemoteError struct {
	Status  int // HTTP status
	Message string
}

// Error returns the firewall's message.
func (e *RemoteError) Error() string { return e.Message }

// call sends a request and decodes the answer into a new T.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (T, error) {
	var answer T
	response, err := c.do(ctx, method, path, query, body)
	if err != nil {
		return answer, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read the firewall's answer: %w", err)
	}
	return answer, nil
}

// Status asks what runs.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, pathStatus, nil, nil)
}

// Stats asks for all counters.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	return call[Stats](ctx, c, http.MethodGet, pathStats, nil, nil)
}

// Count asks for the number of tracked connections.
func (c *Client) Count(ctx context.Context) (Count, error) {
	return call[Count](ctx, c, http.MethodGet, pathCount, nil, nil)
}

// Trackers asks for the counters of connection tracking, by worker.
func (c *Client) Trackers(ctx context.Context) ([]TrackerStats, error) {
	return call[[]TrackerStats](ctx, c, http.MethodGet, pathTrackers, nil, nil)
}

// Flush deletes all tracked connections and returns how many they were.
func (c *Client) Flush(ctx context.Context) (int, error) {
	f, err := call[Flushed](ctx, c, http.MethodDelete, pathConntrack, nil, nil)
	return f.Flushed, err
}

// Rules asks for the rules in force with their counters: those for one IP version (4 or 6), or for both (0).
func (c *Client) Rules(ctx context.Context, family int) ([]ChainCounters, error) {
	return call[[]ChainCounters](ctx, c, http.MethodGet, pathRules, url.Values{"family": {strconv.Itoa(family)}}, nil)
}

// ChangeRules changes the rules in force.
func (c *Client) ChangeRules(ctx context.Context, change RuleChange) (RuleChanged, error) {
	return call[RuleChanged](ctx, c, http.MethodPost, pathRules, nil, change)
}

// SaveRules writes the rules in force to w as iptables-save prints them: of one IP version (4 or 6) or of both (0), of one
// table or of all ("").
func (c *Client) SaveRules(ctx context.Context, w io.Writer, family int, table string, counters rules.Counting) error {
	q := url.Values{"family": {strconv.Itoa(family)}, "table": {table}}
	if counters {
		q.Set("counters", "1")
	}
	_, err := c.lines(ctx, http.MethodGet, pathSave, q, w, nil)
	return err
}

// Explain asks what would become of a frame.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (Explained, error) {
	return call[Explained](ctx, c, http.MethodPost, pathExplain, nil, r)
}

// Reload has the firewall read its configuration and rule files again, all or nothing.
func (c *Client) Reload(ctx context.Context, o ReloadOptions) (Reloaded, error) {
	return call[Reloaded](ctx, c, http.MethodPost, pathReload, nil, o)
}

// Config asks for the settings in force.
func (c *Client) Config(ctx context.Context) ([]config.Value, error) {
	return call[[]config.Value](ctx, c, http.MethodGet, pathConfig, nil, nil)
}

// Change changes settings, all or nothing, and returns those that differ from before.
func (c *Client) Change(ctx context.Context, settings map[string]string) ([]config.Change, error) {
	return call[[]config.Change](ctx, c, http.MethodPatch, pathConfig, nil, settings)
}

// Connections writes the tracked connections that f lets through to w, a line each, in f's format, and returns how
// many they were.
func (c *Client) Connections(ctx context.Context, f Filter, w io.Writer) (int, error) {
	return c.lines(ctx, http.MethodGet, pathConntrack, f.query(), w, nil)
}

// Delete deletes the connections that f lets through, and writes them to w like Connections.
func (c *Client) Delete(ctx context.Context, f Filter, w io.Writer) (int, error) {
	return c.lines(ctx, http.MethodPost, pathDelete, f.query(), w, nil)
}

// Update is a change of connections: of timeout, status and state, of the mark, of labels, or of several of these.
type Update struct {
	Mark     string // value or value/mask: the bits of mask become those of value
	LabelAdd string // names or numbers with commas
	LabelDel string // likewise, or all
	Timeout  string // seconds from now on
	Status   string // to be set: ASSURED, SEEN_REPLY, FIXED_TIMEOUT; several with commas
	State    string // TCP or SCTP state, where Filter.Proto is one of them
}

// Update changes the connections that f lets through, and writes them to w like Connections.
func (c *Client) Update(ctx context.Context, f Filter, u Update, w io.Writer) (int, error) {
	q := f.query()
	for name, value := range map[string]string{"set-mark": u.Mark, "label-add": u.LabelAdd, "label-del": u.LabelDel, "set-timeout": u.Timeout, "set-status": u.Status, "set-state": u.State} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return c.lines(ctx, http.MethodPost, pathUpdate, q, w, nil)
}

// Events writes the events of the connections that f lets through to w as they come, a line each, until ctx or the firewall
// ends. lost is called with the number of events that were missed so far, whenever it grows; nil: nobody wants to know.
func (c *Client) Events(ctx context.Context, f Filter, w io.Writer, lost func(uint64)) (int, error) {
	return c.follow(ctx, pathEvents, f, w, lost)
}

// ExpectEvents is Events for what helpers expect.
func (c *Client) ExpectEvents(ctx context.Context, f Filter, w io.Writer, lost func(uint64)) (int, error) {
	return c.follow(ctx, pathExpecting, f, w, lost)
}

func (c *Client) follow(ctx context.Context, path string, f Filter, w io.Writer, lost func(uint64)) (int, error) {
	n, err := c.lines(ctx, http.MethodGet, path, f.query(), w, lostNote(lost))
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	return n, err
}

// Log writes the packet log, as far as f lets it through, to w as it comes, until it is at its end or, following, until
// ctx or the firewall ends. lost is called with the number of entries that were missed so far, whenever it grows.
func (c *Client) Log(ctx context.Context, f LogFilter, w io.Writer, lost func(uint64)) error {
	var err error
	if f.Format == FormatCapture {
		err = c.copy(ctx, pathLog, f.query(), w)
	} else {
		_, err = c.lines(ctx, http.MethodGet, pathLog, f.query(), w, lostNote(lost))
	}
	if ctx.Err() != nil {
		err = nil // it was asked to end
	}
	return err
}

// copy writes an answer that is not of lines to w as it comes.
func (c *Client) copy(ctx context.Context, path string, q url.Values, w io.Writer) error {
	response, err := c.do(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(w, response.Body); err != nil {
		return fmt.Errorf("read the firewall's answer: %w", err)
	}
	if message := response.Trailer.Get(trailerError); message != "" {
		return errors.New(message)
	}
	return nil
}

// lostNote takes the lines that say how many were missed.
func lostNote(lost func(uint64)) func([]byte) bool {
	return func(line []byte) bool {
		text, ok := strings.CutPrefix(string(line), lostPrefix)
		if !ok {
			return false
		}
		if count, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64); err == nil && lost != nil {
			lost(count)
		}
		return true
	}
}

// Zero writes the connections that f lets through to w like Connections, and sets their counters to zero.
func (c *Client) Zero(ctx context.Context, f Filter, w io.Writer) (int, error) {
	return c.lines(ctx, http.MethodPost, pathZero, f.query(), w, nil)
}

// Expectations writes what helpers expect and f lets through to w, a line each, and returns how many they were.
func (c *Client) Expectations(ctx context.Context, f Filter, w io.Writer) (int, error) {
	return c.lines(ctx, http.MethodGet, pathExpect, f.query(), w, nil)
}

// DeleteExpectations deletes what helpers expect and f lets through, and writes it to w like Expectations.
func (c *Client) DeleteExpectations(ctx context.Context, f Filter, w io.Writer) (int, error) {
	return c.lines(ctx, http.MethodPost, pathUnexpect, f.query(), w, nil)
}

// FlushExpectations deletes what helpers expect and returns how many they were.
func (c *Client) FlushExpectations(ctx context.Context) (int, error) {
	f, err := call[Flushed](ctx, c, http.MethodDelete, pathExpect, nil, nil)
	return f.Flushed, err
}

// Export writes all connections to w for another process to take over.
func (c *Client) Export(ctx context.Context, w io.Writer) error {
	return c.copy(ctx, pathExport, nil, w)
}

// Import has the firewall take over the connections that Export has written, all or none.
func (c *Client) Import(ctx context.Context, r io.Reader) (Imported, error) {
	response, err := c.send(ctx, http.MethodPost, pathImport, nil, typeHandover, r)
	if err != nil {
		return Imported{}, err
	}
	defer response.Body.Close()
	var answer Imported
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return Imported{}, fmt.Errorf("read the firewall's answer: %w", err)
	}
	return answer, nil
}

// Create enters connections, all or none; those that the firewall knows already stay as they are.
func (c *Client) Create(ctx context.Context, records []conntrack.Record) (Imported, error) {
	r, w := io.Pipe()
	go func() {
		h, err := conntrack.NewRecordWriter(w, time.Now().UnixMilli())
		if err == nil {
			err = h.Write(records)
		}
		if err == nil {
			err = h.Close()
		}
		w.CloseWithError(err) // nil is the end
	}()
	defer r.Close()
	return c.Import(ctx, r)
}

// lines writes the lines of an answer to w as they come, except those that note takes, and returns how many they were,
// not counting the frame of an XML document.
func (c *Client) lines(ctx context.Context, method, path string, q url.Values, w io.Writer, note func([]byte) bool) (int, error) {
	response, err := c.do(ctx, method, path, q, nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	out := bufio.NewWriterSize(w, 64<<10)
	n := 0
	in := bufio.NewReaderSize(response.Body, 64<<10)
	xml := strings.HasPrefix(response.Header.Get("Content-Type"), "application/xml")
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 && (note == nil || !note(line)) {
			if !xml || bytes.HasPrefix(line, []byte("<flow")) {
				n++
			}
			if _, werr := out.Write(line); werr != nil {
				return n, werr
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return n, errors.Join(out.Flush(), fmt.Errorf("read the firewall's listing: %w (the listing is incomplete)", err))
		}
		if in.Buffered() == 0 { // what comes next may take its time
			if err := out.Flush(); err != nil {
				return n, err
			}
		}
	}
	if err := out.Flush(); err != nil {
		return n, err
	}
	if message := response.Trailer.Get(trailerError); message != "" {
		return n, fmt.Errorf("%s (the listing is incomplete)", message)
	}
	return n, nil
}
