package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"corewire/tools/lab"
)

// hosts are the applications at both ends: web server, UDP echo, and listeners that nobody must reach.
type hosts struct {
	lab     *lab.Lab
	size    int64  // bytes of a download
	sum     string // their SHA-256
	web     *http.Server
	closers []io.Closer
	hidden  map[hiddenPort]*hiddenListener
	serving sync.WaitGroup
}

type hiddenPort struct {
	at     lab.Where
	family int
	port   uint16
}

// hiddenListener counts the connections that reached it.
type hiddenListener struct {
	net.Listener
	mu      sync.Mutex
	reached int
}

// downloadSeed makes the content of the download the same in every run.
var downloadSeed = [32]byte{'c', 'o', 'r', 'e', 'w', 'i', 'r', 'e'}

// content returns a download's content: cheap to make, impossible to compress or to guess.
func content(size int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8(downloadSeed), size)
}

// newHosts starts the applications. They run until close.
func newHosts(ctx context.Context, l *lab.Lab, size int64) (_ *hosts, err error) {
	h := &hosts{lab: l, size: size, hidden: make(map[hiddenPort]*hiddenListener)}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	hash := sha256.New()
	if _, err := io.Copy(hash, content(size)); err != nil {
		return nil, fmt.Errorf("make the download: %w", err)
	}
	h.sum = hex.EncodeToString(hash.Sum(nil))
	h.web = &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		io.Copy(w, content(size)) // an error is the client's to notice
	})}
	for _, family := range []int{4, 6} {
		listener, err := l.Listen(ctx, lab.Server, "tcp", h.address(lab.Server, family, portHTTP))
		if err != nil {
			return nil, fmt.Errorf("start web server: %w", err)
		}
		h.serving.Go(func() { h.web.Serve(listener) })

		echo, err := l.ListenPacket(ctx, lab.Server, "udp", h.address(lab.Server, family, portEcho))
		if err != nil {
			return nil, fmt.Errorf("start echo server: %w", err)
		}
		h.closers = append(h.closers, echo)
		h.serving.Go(func() {
			buffer := make([]byte, 65536)
			for {
				n, from, err := echo.ReadFrom(buffer)
				if err != nil {
					return
				}
				echo.WriteTo(buffer[:n], from)
			}
		})

		for _, p := range []hiddenPort{{lab.Server, family, portTelnet}, {lab.Client, family, portAdmin}} {
			listener, err := l.Listen(ctx, p.at, "tcp", h.address(p.at, p.family, p.port))
			if err != nil {
				return nil, fmt.Errorf("start hidden listener: %w", err)
			}
			hidden := &hiddenListener{Listener: listener}
			h.hidden[p] = hidden
			h.closers = append(h.closers, listener)
			h.serving.Go(hidden.serve)
		}
	}
	return h, nil
}

func (h *hiddenListener) serve() {
	for {
		conn, err := h.Accept()
		if err != nil {
			return
		}
		conn.Close()
		h.mu.Lock()
		h.reached++
		h.mu.Unlock()
	}
}

func (h *hiddenListener) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reached
}

// close stops the applications and waits for them.
func (h *hosts) close() error {
	var errs []error
	if h.web != nil {
		errs = append(errs, h.web.Close())
	}
	for _, c := range h.closers {
		errs = append(errs, c.Close())
	}
	h.serving.Wait()
	return errors.Join(errs...)
}

func (h *hosts) address(w lab.Where, family int, port uint16) string {
	return netip.AddrPortFrom(h.lab.Addr(w, family), port).String()
}

// download gets the file over HTTP and compares length and checksum.
func (h *hosts) download(ctx context.Context, family int) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return h.lab.Dial(ctx, lab.Client, network, address)
		}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.address(lab.Server, family, portHTTP)+"/file", nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, fmt.Errorf("get %v: %w", request.URL, err)
	}
	defer response.Body.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, response.Body)
	took = time.Since(began)
	switch sum := hex.EncodeToString(hash.Sum(nil)); {
	case err != nil:
		return took, fmt.Errorf("get %v: %w after %d bytes", request.URL, err, n)
	case response.StatusCode != http.StatusOK:
		return took, fmt.Errorf("get %v: %s", request.URL, response.Status)
	case n != h.size:
		return took, fmt.Errorf("get %v: %d bytes, want %d", request.URL, n, h.size)
	case sum != h.sum:
		return took, fmt.Errorf("get %v: SHA-256 %s, want %s", request.URL, sum, h.sum)
	}
	return took, nil
}

// blockedPatience is how long a connection that the firewall must swallow is tried: with the retransmission after a
// second (RFC 6298 section 2) it is two SYNs.
const blockedPatience = 1200 * time.Millisecond

// blocked tries to connect and returns nil if the attempt went unanswered and did not reach the other end.
func (h *hosts) blocked(ctx context.Context, from lab.Where, p hiddenPort) error {
	before := h.hidden[p].count()
	try, cancel := context.WithTimeout(ctx, blockedPatience)
	defer cancel()
	address := h.address(p.at, p.family, p.port)
	conn, err := h.lab.Dial(try, from, "tcp", address)
	var timeout net.Error
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("connected to %s, which the rules forbid", address)
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.As(err, &timeout) || !timeout.Timeout():
		return fmt.Errorf("connection to %s was answered: %w", address, err)
	case h.hidden[p].count() != before:
		return fmt.Errorf("a connection reached %s", address)
	}
	return nil
}

// datagram sends size bytes over UDP to the echo server and compares what comes back.
func (h *hosts) datagram(ctx context.Context, family, size int) error {
	conn, err := h.lab.Dial(ctx, lab.Client, "udp", h.address(lab.Server, family, portEcho))
	if err != nil {
		return fmt.Errorf("open UDP socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	sent := make([]byte, size)
	if _, err := io.ReadFull(content(int64(size)), sent); err != nil {
		return err
	}
	if _, err := conn.Write(sent); err != nil {
		return fmt.Errorf("send datagram of %d bytes: %w", size, err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 65536)
	n, err := conn.Read(got)
	if err != nil {
		return fmt.Errorf("receive datagram of %d bytes: %w", size, err)
	}
	if string(got[:n]) != string(sent) {
		return fmt.Errorf("datagram of %d bytes came back with %d bytes, and changed", size, n)
	}
	return nil
}
