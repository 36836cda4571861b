package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
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

// lines streams the entries that each gives to visit, as the selector has them written.
func (s *selector) lines(w http.ResponseWriter, what string, each func(visit func([]conntrack.Info) error) error) {
	out := newStream(w, s.kind())
	if s.format == FormatXML {
		_, _ = out.WriteString(conntrack.XMLHead) // its error comes back with the next write
	}
	var line []byte
	err := each(func(infos []conntrack.Info) error {
		if err := out.extend(); err != nil {
			return err
		}
		for i := range infos {
			line = s.appendLine(line[:0], &infos[i])
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && s.format == FormatXML {
		_, err = out.WriteString(conntrack.XMLTail)
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
	s.lines(w, "list connections", func(visit func([]conntrack.Info) error) error {
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
	s.lines(w, "delete connections", func(visit func([]conntrack.Info) error) error {
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
	c := &s.changes
	if c.setMark == c.setLabels {
		respond(w, http.StatusBadRequest, Error{"update connections: expected either set-mark, or label-add and label-del"})
		return
	}
	s.lines(w, "update connections", func(visit func([]conntrack.Info) error) (err error) {
		if c.setMark {
			_, err = f.engine.SetMarks(r.Context(), s.admits, c.mark, c.mask, visit)
		} else {
			_, err = f.engine.SetLabels(r.Context(), s.admits, c.add, c.del, visit)
		}
		return err
	})
}

// serveEvents streams events until the reader goes or the firewall ends.
func (f *Firewall) serveEvents(w http.ResponseWriter, r *http.Request) {
	s := selected(w, r, "stream events")
	if s == nil {
		return
	}
	out := newStream(w, s.kind())
	var err error
	if s.format == FormatXML {
		_, err = out.WriteString(conntrack.XMLHead)
	}
	if err == nil {
		err = out.push() // the reader knows now that it listens, or will in a moment
	}
	var line []byte
	told := uint64(0)
	if err == nil {
		err = f.engine.Events(r.Context(), func(events []conntrack.Event, lost uint64) error {
			if err := out.extend(); err != nil {
				return err
			}
			now := time.Now()
			for i := range events {
				e := &events[i]
				if !s.events[e.Kind] || !s.admits(&e.Info) {
					continue
				}
				line = s.appendEvent(line[:0], e, now.Add(-f.engine.Ago(e.At)))
				if _, err := out.Write(line); err != nil {
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
			_, err = out.WriteString(conntrack.XMLTail)
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
	out := newStream(w, typeLines)
	var line []byte
	out.end("list expectations", f.engine.Expectations(r.Context(), func(infos []conntrack.ExpectInfo) error {
		if err := out.extend(); err != nil {
			return err
		}
		for i := range infos {
			x := &infos[i]
			if c := &s.filter; c.Family != 0 && c.Family != x.Family || c.MatchProto == conntrack.Exactly && c.Proto != x.Proto ||
				c.MatchZone == conntrack.Exactly && c.Zone != x.Zone {
				continue
			}
			line = append(x.AppendLine(line[:0], s.style.Format), '\n')
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
		return nil
	}))
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
