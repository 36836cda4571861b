package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"corewire/internal/config"
)

// Times after which the server gives up on a peer that stands still. Requests are a few bytes from the same machine; a
// listing's writer gets its time anew with every slice, so that a reader who stops holds a goroutine and nothing else.
const (
	readTimeout    = 5 * time.Second
	writeTimeout   = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	askTimeout     = 5 * time.Second  // for the workers' answers
	loadTimeout    = time.Minute      // for reading and compiling rule files as well
	rejudgeTimeout = 30 * time.Minute // for judging all connections again as well: some millions at a time that nobody notices
	maxHeader      = 16 << 10         // bytes
	maxSockets     = 64               // connections at once, on each listener
)

// Server serves the API on the control socket, and metrics and health on the metrics address.
type Server struct {
	socket *socket      // nil where there is no control socket
	tcp    net.Listener // nil where there is no metrics address
}

// Listen opens the control socket and the metrics address that the settings name, either of which may be empty, so that
// a second firewall is refused before it touches an interface. Requests wait until Serve.
func Listen(c *config.Config) (*Server, error) {
	s := &Server{}
	if c.ControlSocket != "" {
		l, err := listen(c.ControlSocket)
		if err != nil {
			return nil, err
		}
		s.socket = l
	}
	if c.MetricsAddr != "" {
		l, err := net.Listen("tcp", c.MetricsAddr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen at metrics address: %w (is another corewire running? --metrics-addr= serves none)", err), s.Close())
		}
		s.tcp = l
	}
	return s, nil
}

// limitBody bounds the bodies of requests, except an import's, which is read a block at a time and bounded by what it
// holds.
func limitBody(h http.Handler) http.Handler {
	small := http.MaxBytesHandler(h, maxRequest)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == pathImport || r.URL.Path == pathSetRestore {
			h.ServeHTTP(w, r)
			return
		}
		small.ServeHTTP(w, r)
	})
}

func newHTTP(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           limitBody(h),
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}
}

// MetricsAddr returns the address that metrics are served at, with the port really got; nil for none.
func (s *Server) MetricsAddr() net.Addr {
	if s.tcp == nil {
		return nil
	}
	return s.tcp.Addr()
}

// Serve answers for a firewall until ctx ends or a listener fails, then lets requests under way finish for at most a
// second, and closes the listeners.
func (s *Server) Serve(ctx context.Context, f *Firewall) error {
	failed := make(chan error, 2)
	metrics := f.metricsHandler()
	var servers []*http.Server
	serve := func(l net.Listener, mux *http.ServeMux) {
		mux.Handle("GET "+pathMetrics, metrics)
		mux.HandleFunc("GET "+pathHealth, f.serveHealth)
		h := newHTTP(mux)
		servers = append(servers, h)
		go func() {
			err := h.Serve(&bounded{Listener: l, free: make(chan struct{}, maxSockets)})
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			failed <- err
		}()
	}
	if s.socket != nil {
		serve(s.socket, f.routes())
	}
	if s.tcp != nil {
		serve(s.tcp, http.NewServeMux())
	}
	n := len(servers)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		n--
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, h := range servers {
		if h.Shutdown(last) != nil { // a request still runs: it is cut off
			err = errors.Join(err, h.Close())
		}
	}
	for range n {
		err = errors.Join(err, <-failed)
	}
	return errors.Join(err, s.Close())
}

// Close closes the listeners and removes the socket. Serve does so as well.
func (s *Server) Close() error {
	var err error
	if s.tcp != nil {
		err = ignoreClosed(s.tcp.Close())
	}
	if s.socket != nil {
		err = errors.Join(err, ignoreClosed(s.socket.Close()))
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// bounded is a listener with a bound on open connections: further ones wait in the kernel's queue.
type bounded struct {
	net.Listener
	free chan struct{} // holds an element for each open connection
}

func (b *bounded) Accept() (net.Conn, error) {
	b.free <- struct{}{}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &counted{Conn: c, free: b.free}, nil
}

// counted gives its place back when it is closed, once.
type counted struct {
	net.Conn
	free chan struct{}
}

func (c *counted) Close() error {
	err := c.Conn.Close()
	if !errors.Is(err, net.ErrClosed) {
		<-c.free
	}
	return err
}

// routes returns the API's handlers.
func (f *Firewall) routes() *http.ServeMux {
	mux := http.NewServeMux()
	within := func(limit time.Duration, pattern string, h func(context.Context, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), limit)
			defer cancel()
			c := http.NewResponseController(w)
			if err := errors.Join(c.SetReadDeadline(time.Now().Add(readTimeout)), c.SetWriteDeadline(time.Now().Add(limit+writeTimeout))); err != nil {
				respond(w, http.StatusInternalServerError, Error{err.Error()})
				return
			}
			answer, err := h(ctx, r)
			if err != nil {
				respond(w, statusOf(err), Error{err.Error()})
				return
			}
			respond(w, http.StatusOK, answer)
		})
	}
	handle := func(pattern string, h func(context.Context, *http.Request) (any, error)) {
		within(askTimeout, pattern, h)
	}
	handle("GET "+pathStatus, func(context.Context, *http.Request) (any, error) { return f.Status(), nil })
	handle("GET "+pathStats, func(ctx context.Context, _ *http.Request) (any, error) { return f.Stats(ctx) })
	handle("GET "+pathCount, func(context.Context, *http.Request) (any, error) { return f.Count(), nil })
	handle("GET "+pathTrackers, func(ctx context.Context, _ *http.Request) (any, error) { return f.Trackers(ctx) })
	handle("DELETE "+pathConntrack, func(ctx context.Context, _ *http.Request) (any, error) {
		n, err := f.Flush(ctx)
		return Flushed{n}, err
	})
	within(loadTimeout, "GET "+pathSets, func(_ context.Context, r *http.Request) (any, error) {
		return f.Sets(r.URL.Query().Get("name"), setFlag(r, "members"), setFlag(r, "sorted"))
	})
	mux.HandleFunc("GET "+pathSetSave, f.serveSave)
	handle("POST "+pathSetDo, func(ctx context.Context, r *http.Request) (any, error) {
		var c SetCommand
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
			return nil, &requestError{fmt.Errorf("read request: %w (expected an object with words)", err)}
		}
		return f.SetDo(ctx, c)
	})
	within(loadTimeout, "POST "+pathSetRestore, f.restoreSets)
	f.ruleRoutes(func(pattern string, h func(context.Context, *http.Request) (any, error)) {
		within(loadTimeout, pattern, h)
	}, mux)
	within(rejudgeTimeout, "POST "+pathReload, func(ctx context.Context, r *http.Request) (any, error) {
		var o ReloadOptions
		if err := decode(r, &o); err != nil {
			return nil, err
		}
		return f.Reload(ctx, o)
	})
	handle("GET "+pathConfig, func(context.Context, *http.Request) (any, error) { return f.Config().Values(), nil })
	within(loadTimeout, "PATCH "+pathConfig, func(ctx context.Context, r *http.Request) (any, error) {
		var settings map[string]string
		d := json.NewDecoder(r.Body)
		if err := d.Decode(&settings); err != nil {
			return nil, &requestError{fmt.Errorf("read request: %w (expected an object of setting to text)", err)}
		}
		return f.Change(ctx, settings)
	})
	f.recentRoutes(handle)
	mux.HandleFunc("GET "+pathConntrack, f.serveConnections)
	mux.HandleFunc("POST "+pathDelete, f.serveDelete)
	mux.HandleFunc("POST "+pathUpdate, f.serveUpdate)
	mux.HandleFunc("GET "+pathEvents, f.serveEvents)
	mux.HandleFunc("GET "+pathLog, f.serveLog)
	mux.HandleFunc("GET "+pathExport, f.serveExport)
	mux.HandleFunc("POST "+pathImport, f.serveImport)
	mux.HandleFunc("POST "+pathZero, f.serveZero)
	mux.HandleFunc("GET "+pathExpect, f.serveExpectations)
	mux.HandleFunc("POST "+pathUnexpect, f.serveExpectDelete)
	mux.HandleFunc("GET "+pathExpecting, f.serveExpectEvents)
	handle("DELETE "+pathExpect, func(context.Context, *http.Request) (any, error) { return Flushed{f.engine.FlushExpectations()}, nil })
	return mux
}

// requestError is the asker's mistake.
type requestError struct{ error }

func (e *requestError) Unwrap() error { return e.error }

// statusOf returns the HTTP status for an error.
func statusOf(err error) int {
	if _, ok := errors.AsType[*requestError](err); ok {
		return http.StatusBadRequest
	}
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return http.StatusConflict
	}
	if _, ok := errors.AsType[config.Problems](err); ok {
		return http.StatusBadRequest
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// respond writes an answer. A peer that is gone is nobody to tell.
func respond(w http.ResponseWriter, status int, answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}

// serveHealth answers 200 while every worker answers, otherwise 503.
func (f *Firewall) serveHealth(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	w.Header().Set("Content-Type", typeLines)
	if err := f.Healthy(ctx); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, err.Error()+"\n")
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}
