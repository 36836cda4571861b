package control

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"corewire/internal/packet"
)

// listed returns what a listing with the filter prints.
func (r *rig) listed(f Filter) string {
	r.t.Helper()
	var b bytes.Buffer
	if _, err := r.client.Connections(r.ctx, f, &b); err != nil {
		r.t.Fatal(err)
	}
	return b.String()
}

// TestUpdateAndDelete: marks and labels of what is selected change, and it can be deleted; both are listed.
func TestUpdateAndDelete(t *testing.T) {
	r := newRig(t, 2, nil)
	for n := range 40 {
		r.send(packet.Inside, dns(n))
	}
	one := Filter{Src: "10.0.0.7", Show: []string{"id", "labels"}}
	var b bytes.Buffer
	n, err := r.client.Update(r.ctx, one, Update{Mark: "0x30/0xf0"}, &b)
	if n != 1 || err != nil || !strings.Contains(b.String(), " mark=48 use=1 id=") {
		t.Fatalf("%d, %v: %s", n, err, b.String())
	}
	b.Reset()
	n, err = r.client.Update(r.ctx, Filter{Mark: "48", Show: one.Show}, Update{LabelAdd: "3,120"}, &b)
	if n != 1 || err != nil || !strings.HasSuffix(b.String(), " labels=3,120\n") {
		t.Fatalf("%d, %v: %s", n, err, b.String())
	}
	if n, err = r.client.Update(r.ctx, Filter{Labels: "120"}, Update{LabelDel: "3"}, io.Discard); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := r.listed(Filter{Labels: "120", Format: FormatJSON, Show: []string{"labels"}}); !strings.Contains(got, `"labels":["120"]`) || strings.Count(got, "\n") != 1 {
		t.Error(got)
	}
	for _, u := range []Update{{}, {Mark: "x"}, {LabelAdd: "128"}, {Timeout: "0"}, {Timeout: "x"}, {Status: "EXPECTED"}} {
		_, err := r.client.Update(r.ctx, Filter{}, u, io.Discard)
		if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Status != http.StatusBadRequest {
			t.Errorf("%+v: %v", u, err)
		}
	}
	b.Reset()
	several := Update{Mark: "49", LabelAdd: "5", Timeout: "500", Status: "ASSURED,SEEN_REPLY"}
	if n, err = r.client.Update(r.ctx, one, several, &b); n != 1 || err != nil || strings.Count(b.String(), "\n") != 1 || !strings.HasSuffix(b.String(), " labels=5,120\n") {
		t.Fatalf("%d, %v: %s", n, err, b.String())
	}
	if got := r.listed(Filter{Mark: "49", Status: "ASSURED"}); !strings.Contains(got, "17 499 src=10.0.0.7") && !strings.Contains(got, "17 500 src=10.0.0.7") || !strings.Contains(got, "[ASSURED] mark=49") {
		t.Error(got)
	}
	b.Reset()
	if n, err = r.client.Delete(r.ctx, Filter{Mark: "49"}, &b); n != 1 || err != nil || !strings.Contains(b.String(), "src=10.0.0.7 ") {
		t.Fatalf("%d, %v: %s", n, err, b.String())
	}
	if got := r.listed(Filter{}); strings.Count(got, "\n") != 39 || strings.Contains(got, "10.0.0.7 ") {
		t.Error(got)
	}
	var document struct {
		Flows []struct{} `xml:"flow"`
	}
	b.Reset()
	if n, err = r.client.Delete(r.ctx, Filter{Format: FormatXML, ReplySrc: "192.0.2.0/24", Zone: "0"}, &b); n != 39 || err != nil {
		t.Fatal(n, err)
	}
	if err := xml.Unmarshal(b.Bytes(), &document); err != nil || len(document.Flows) != 39 {
		t.Errorf("%v, %d flows", err, len(document.Flows))
	}
	if c, err := r.client.Count(r.ctx); err != nil || c.Count != 0 {
		t.Error(c, err)
	}
}

// safeBuffer is written by one goroutine and read by another.
type safeBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) text() string {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.String()
}

// TestEventStream: events come as they happen, filtered, in each form, until the reader ends.
func TestEventStream(t *testing.T) {
	r := newRig(t, 2, nil)
	ctx, cancel := context.WithCancel(r.ctx)
	streams := []*struct {
		filter Filter
		out    safeBuffer
		want   []string
	}{
		{filter: Filter{}, want: []string{
			"    [NEW] udp      17 30 src=10.0.0.3 dst=192.0.2.53 sport=1024 dport=53 [UNREPLIED] src=192.0.2.53 dst=10.0.0.3 sport=53 dport=1024\n",
			" [UPDATE] udp      17 29 src=10.0.0.3 dst=192.0.2.53 sport=1024 dport=53 [UNREPLIED] src=192.0.2.53 dst=10.0.0.3 sport=53 dport=1024 mark=5\n",
			"[DESTROY] udp      17 29 src=10.0.0.3 dst=192.0.2.53 sport=1024 dport=53 [UNREPLIED] src=192.0.2.53 dst=10.0.0.3 sport=53 dport=1024 mark=5\n"}},
		{filter: Filter{Src: "10.0.0.3", Events: "DESTROY", Format: FormatExtended, Show: []string{"timestamp", "id"}}, want: []string{"]\t[DESTROY] ipv4     2 udp      17 29", " id="}},
		{filter: Filter{Events: "NEW", Format: FormatJSON}, want: []string{`"event":"NEW"`, `"src":"10.0.0.3"`}},
		{filter: Filter{Events: "new,destroy", Format: FormatXML}, want: []string{`<flow type="new">`, `<flow type="destroy">`}},
	}
	var done sync.WaitGroup
	for _, s := range streams {
		done.Go(func() {
			if _, err := r.client.Events(ctx, s.filter, &s.out, nil); err != nil {
				t.Errorf("%+v: %v", s.filter, err)
			}
		})
	}
	// Nobody tells when all of them listen: the same again until each has heard everything.
	r.eventually("all events", func() bool {
		r.send(packet.Inside, dns(2))
		for _, do := range []func() (int, error){
			func() (int, error) { return r.client.Update(r.ctx, Filter{}, Update{Mark: "5"}, io.Discard) },
			func() (int, error) { return r.client.Delete(r.ctx, Filter{}, io.Discard) },
		} {
			if n, err := do(); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		for _, s := range streams {
			text := s.out.text()
			for _, want := range s.want {
				if !strings.Contains(text, want) && !strings.Contains(text, strings.ReplaceAll(want, " 29 ", " 30 ")) {
					return false
				}
			}
		}
		return true
	})
	cancel()
	done.Wait()
	for i, kinds := range [][]string{1: {"NEW", "UPDATE"}, 2: {"UPDATE", "DESTROY"}, 3: {`"update"`}} {
		for _, kind := range kinds {
			if strings.Contains(streams[i].out.text(), kind) {
				t.Errorf("%+v: %s", streams[i].filter, streams[i].out.text())
			}
		}
	}
}

// TestExportImport hands the connections of one firewall over to another; what is damaged or does not fit changes nothing.
func TestExportImport(t *testing.T) {
	a, b, c := newRig(t, 2, map[string]string{"nf_conntrack_acct": "1"}), newRig(t, 1, map[string]string{"nf_conntrack_acct": "1"}), newRig(t, 2, map[string]string{"nf_conntrack_max": "99"})
	for n := range 100 {
		a.send(packet.Inside, dns(n))
	}
	if _, err := a.client.Update(a.ctx, Filter{Src: "10.0.0.7"}, Update{Mark: "7"}, io.Discard); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := a.client.Export(a.ctx, &file); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), file.Bytes()[:file.Len()-1], append(bytes.Clone(file.Bytes()), 1), bytes.Replace(file.Bytes(), []byte{17, 4}, []byte{6, 4}, 1)} {
		_, err := b.client.Import(b.ctx, bytes.NewReader(bad))
		if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Status != http.StatusBadRequest {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if n, err := b.client.Count(b.ctx); n.Count != 0 || err != nil {
		t.Fatal(n, err)
	}
	if got, err := b.client.Import(b.ctx, bytes.NewReader(file.Bytes())); err != nil || got != (Imported{Entered: 100}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := b.client.Import(b.ctx, bytes.NewReader(file.Bytes())); err != nil || got != (Imported{Known: 100}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got := b.listed(Filter{Mark: "7"}); !strings.Contains(got, "src=10.0.0.7 ") || !strings.Contains(got, "packets=1 ") {
		t.Error(got)
	}
	_, err := c.client.Import(c.ctx, bytes.NewReader(file.Bytes()))
	if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Status != http.StatusConflict || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("%v", err)
	}
	if n, err := c.client.Count(c.ctx); n.Count != 0 || err != nil {
		t.Error(n, err)
	}
}
