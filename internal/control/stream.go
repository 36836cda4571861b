package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
)

// lostPrefix begins a line of a stream of events which says how many events were missed so far.
const lostPrefix = "# lost "

// stream writes an answer piece by piece. Its deadline moves with every piece, so that a reader who stops holds a goroutine
// and nothing else; an error is told in a trailer.
type stream struct {
	*bufio.Writer
	w       http.ResponseWriter
	control *http.ResponseController
}

func newStream(w http.ResponseWriter, kind string) *stream {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Trailer", trailerError)
	return &stream{Writer: bufio.NewWriterSize(w, 64<<10), w: w, control: http.NewResponseController(w)}
}

// extend gives the reader its time anew. A writer without deadlines (a test's recorder) has none to move.
func (s *stream) extend() error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// push sends everything that was written at once.
func (s *stream) push() error {
	if err := s.Flush(); err != nil {
		return err
	}
	if err := s.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// end ends the stream; what names what was done, for the trailer of an error.
func (s *stream) end(what string, err error) {
	if err == nil {
		err = s.Flush()
	} else {
		_ = s.Flush() // the trailer says what is missing
	}
	if err != nil {
		s.w.Header().Set(trailerError, what+": "+err.Error())
	}
}

// selected reads the request's filter, or answers that it is wrong.
func selected(w http.ResponseWriter, r *http.Request, what string) *selector {
	s, err := parseFilter(r.URL.Query())
	if err != nil {
		respond(w, http.StatusBadRequest, Error{what + ": " + err.Error()})
		return nil
	}
	s.style.Now = time.Now()
	return s
}

// kind returns the content type of a selector's lines.
func (s *selector) kind() string {
	switch s.format {
	case FormatJSON:
		return typeJSONLines
	case FormatXML:
		return typeXML
	}
	return typeLines
}

// document is the frame of an XML listing, and of what: flows or expectations.
type document struct{ head, tail string }

var (
	flows        = document{conntrack.XMLHead, conntrack.XMLTail}
	expectations = document{conntrack.ExpectXMLHead, conntrack.ExpectXMLTail}
)

// lines streams the elements that each gives to visit, as line appends them.
func lines[T any](w http.ResponseWriter, s *selector, d document, what string, line func([]byte, *T) []byte, each func(visit func([]T) error) error) {
	out := newStream(w, s.kind())
	if s.format == FormatXML {
		_, _ = out.WriteString(d.head) // its error comes back with the next write
	}
	var b []byte
	err := each(func(infos []T) error {
		if err := out.extend(); err != nil {
			return err
		}
		for i := range infos {
			b = line(b[:0], &infos[i])
			if _, err := out.Write(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && s.format == FormatXML {
		_, err = out.WriteString(d.tail)
	}
	out.end(what, err)
}

// serveConnections streams a listing: the workers answer in slices, which are written as they come, so that neither
// side holds the table.
func (f *Firewall) serveConnections(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "list connections")
	if s == nil {
		return
	}
	lines(w, s, flows, "list connections", s.appendLine, func(visit func([]conntrack.Info) error) error {
		return f.Connections(r.Context(), func(infos []conntrack.Info) error {
			n := 0
			for i := range infos {
				if s.admits(&infos[i]) {
					infos[n] = infos[i]
					n++
				}
			}
			return visit(infos[:n])
		})
	})
}

// serveDelete deletes the connections that the filter selects, and streams them as a listing.
func (f *Firewall) serveDelete(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "delete connections")
	if s == nil {
		return
	}
	lines(w, s, flows, "delete connections", s.appendLine, func(visit func([]conntrack.Info) error) error {
		_, err := f.engine.Delete(r.Context(), s.admits, visit)
		return err
	})
}

// serveUpdate changes mark and labels of the connections that the filter selects, and streams them as a listing.
func (f *Firewall) serveUpdate(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "update connections")
	if s == nil {
		return
	}
	steps := s.updates(f)
	if len(steps) == 0 {
		respond(w, http.StatusBadRequest, Error{"update connections: nothing is to be changed (expected set-timeout, set-status, set-state, set-mark, label-add or label-del)"})
		return
	}
	lines(w, s, flows, "update connections", s.appendLine, func(visit func([]conntrack.Info) error) error {
		for n, step := range steps {
			told := visit
			if n < len(steps)-1 {
				told = nil // the last one tells of all
			}
			if err := step(r.Context(), told); err != nil {
				return err
			}
		}
		return nil
	})
}

// updates returns what an update has to do, in an order in which no step changes what the filter of a later one asks for:
// labels are asked for, and come last.
func (s *selector) updates(f *Firewall) (steps []func(context.Context, func([]conntrack.Info) error) error) {
	c := &s.changes
	if c.change != (conntrack.Change{}) {
		steps = append(steps, func(ctx context.Context, visit func([]conntrack.Info) error) error {
			_, err := f.engine.Change(ctx, s.admits, c.change, visit)
			return err
		})
	}
	if c.setMark {
		steps = append(steps, func(ctx context.Context, visit func([]conntrack.Info) error) error {
			_, err := f.engine.SetMarks(ctx, s.admits, c.mark, c.mask, visit)
			return err
		})
	}
	if c.setLabels {
		steps = append(steps, func(ctx context.Context, visit func([]conntrack.Info) error) error {
			_, err := f.engine.SetLabels(ctx, s.admits, c.add, c.del, visit)
			return err
		})
	}
	return steps
}

// serveZero streams the connections that the filter selects, as a listing, and sets their counters to zero.
func (f *Firewall) serveZero(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "zero counters")
	if s == nil {
		return
	}
	lines(w, s, flows, "zero counters", s.appendLine, func(visit func([]conntrack.Info) error) error {
		_, err := f.engine.Zero(r.Context(), s.admits, visit)
		return err
	})
}

// serveEvents streams events of connections until the reader goes or the firewall ends.
func (f *Firewall) serveEvents(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "stream events")
	if s == nil {
		return
	}
	follow(w, s, flows, func(visit func([]conntrack.Event, uint64) error) error {
		return f.engine.Events(r.Context(), s.room, visit)
	},
		func(b []byte, e *conntrack.Event) []byte {
			if !s.events[e.Kind] || !s.admits(&e.Info) {
				return b
			}
			return s.appendEvent(b, e, time.Now().Add(-f.engine.Ago(e.At)))
		})
}

// serveExpectEvents streams events of what helpers expect until the reader goes or the firewall ends.
func (f *Firewall) serveExpectEvents(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "stream events")
	if s == nil {
		return
	}
	follow(w, s, expectations, func(visit func([]conntrack.ExpectEvent, uint64) error) error {
		return f.engine.ExpectEvents(r.Context(), visit)
	},
		func(b []byte, e *conntrack.ExpectEvent) []byte {
			if !s.events[e.Kind] || !s.filter.MatchExpect(&e.Info) {
				return b
			}
			return s.appendExpectEvent(b, e, time.Now().Add(-f.engine.Ago(e.At)))
		})
}

// follow streams events as they come; line appends an event's line, or nothing.
func follow[T any](w http.ResponseWriter, s *selector, d document, listen func(func([]T, uint64) error) error, line func([]byte, *T) []byte) {
	out := newStream(w, s.kind())
	var err error
	if s.format == FormatXML {
		_, err = out.WriteString(d.head)
	}
	if err == nil {
		err = out.push() // the reader knows now that it listens, or will in a moment
	}
	var b []byte
	told := uint64(0)
	if err == nil {
		err = listen(func(events []T, lost uint64) error {
			if err := out.extend(); err != nil {
				return err
			}
			for i := range events {
				b = line(b[:0], &events[i])
				if _, err := out.Write(b); err != nil {
					return err
				}
			}
			if lost != told {
				told = lost
				if _, err := out.WriteString(lostPrefix + strconv.FormatUint(lost, 10) + "\n"); err != nil {
					return err
				}
			}
			return out.push()
		})
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, dataplane.ErrStopped) {
		err = nil
		if s.format == FormatXML {
			_, err = out.WriteString(d.tail)
		}
	}
	out.end("stream events", err)
}

// serveExpectations streams what helpers expect.
func (f *Firewall) serveExpectations(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "list expectations")
	if s == nil {
		return
	}
	lines(w, s, expectations, "list expectations", s.appendExpectation, func(visit func([]conntrack.ExpectInfo) error) error {
		return f.engine.Expectations(r.Context(), func(infos []conntrack.ExpectInfo) error {
			return visit(slices.DeleteFunc(infos, func(x conntrack.ExpectInfo) bool { return !s.filter.MatchExpect(&x) }))
		})
	})
}

// serveExpectDelete removes what helpers expect and the filter selects, and streams it as a listing.
func (f *Firewall) serveExpectDelete(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "delete expectations")
	if s == nil {
		return
	}
	lines(w, s, expectations, "delete expectations", s.appendExpectation, func(visit func([]conntrack.ExpectInfo) error) error {
		_, err := f.engine.DeleteExpectations(r.Context(), s.filter.MatchExpect, visit)
		return err
	})
}

// serveExport streams all connections for another process (package conntrack's handover).
func (f *Firewall) serveExport(w http.ResponseWriter, r *http.Request) {
	out := newStream(w, typeHandover)
	out.end("export connections", f.Export(r.Context(), writerFunc(func(b []byte) (int, error) {
		if err := out.extend(); err != nil {
			return 0, err
		}
		return out.Write(b)
	})))
}

// writerFunc is a function as io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// serveImport takes the connections of a handover, all or none.
func (f *Firewall) serveImport(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	answer, err := f.Import(r.Context(), readerFunc(func(b []byte) (int, error) {
		if err := c.SetReadDeadline(time.Now().Add(readTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return 0, err
		}
		return r.Body.Read(b)
	}))
	if e := c.SetWriteDeadline(time.Now().Add(writeTimeout)); e != nil && !errors.Is(e, http.ErrNotSupported) {
		err = errors.Join(err, e)
	}
	if err != nil {
		respond(w, statusOf(err), Error{err.Error()})
		return
	}
	respond(w, http.StatusOK, answer)
}

// readerFunc is a function as io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

var _ io.Reader = readerFunc(nil)
