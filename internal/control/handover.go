package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
)

// maxImport bounds an import where nf_conntrack_max sets no bound: 16 Mi connections are 4.4 GB.
const maxImport = 1 << 24

// Imported is what an import did.
type Imported struct {
	Entered int `json:"entered"` // connections that were taken over
	Known   int `json:"known"`   // those that this firewall knew already, which stay as they are
	Expired int `json:"expired"` // those whose time has passed since they were exported

	Expected int `json:"expected"` // expected connections, and PPTP call ids, that were taken over with who expects them
}

// Export writes all connections to w for another process to take over.
func (f *Firewall) Export(ctx context.Context, w io.Writer) error {
	h, err := conntrack.NewRecordWriter(w, time.Now().UnixMilli())
	if err != nil {
		return err
	}
	if err := f.engine.Export(ctx, h.Write, h.WriteExpected); err != nil {
		return err
	}
	return h.Close()
}

// Import takes over the connections that Export has written. All of it is read and checked before anything is entered,
// and what does not fit completely is not entered at all. The time since the export counts.
func (f *Firewall) Import(ctx context.Context, r io.Reader) (Imported, error) {
	h, err := conntrack.NewRecordReader(bufio.NewReaderSize(r, 1<<20))
	if err != nil {
		return Imported{}, &requestError{err}
	}
	bound := f.Count().Max
	if bound == 0 {
		bound = maxImport
	}
	elapsed := max(0, time.Now().UnixMilli()-h.Taken()) // a clock that was put back must not lengthen anything
	var out Imported
	var records []conntrack.Record
	block := make([]conntrack.Record, 1024)
	for {
		n, err := h.Read(block)
		if err == io.EOF {
			break
		}
		if err != nil {
			return Imported{}, &requestError{err}
		}
		for i := range block[:n] {
			if !block[i].Shift(elapsed) {
				out.Expired++
				continue
			}
			if len(records) == bound {
				return Imported{}, &RefusedError{fmt.Errorf("import connections: more than %d (raise nf_conntrack_max)", bound)}
			}
			records = append(records, block[i])
		}
	}
	expected, err := readExpected(h, records, elapsed)
	if err != nil {
		return Imported{}, err
	}
	done, err := f.engine.Import(ctx, records, expected)
	if _, ok := errors.AsType[*dataplane.RoomError](err); ok {
		return Imported{}, &RefusedError{err}
	}
	if err != nil {
		return Imported{}, err
	}
	out.Entered, out.Known, out.Expected = done.Entered, done.Known, done.Expected
	return out, nil
}

// readExpected reads what the records expect, of which every one must be of a connection in the handover: one whose master
// has expired meanwhile is left out.
func readExpected(h *conntrack.RecordReader, records []conntrack.Record, elapsed int64) (expected []conntrack.ExpectRecord, err error) {
	type master struct {
		key     packet.Key
		flipped bool
	}
	masters := map[master]bool{}
	for i := range records {
		if r := &records[i]; r.Helped() {
			masters[master{r.Key(), r.Flipped()}] = true
		}
	}
	block := make([]conntrack.ExpectRecord, 1024)
	for {
		n, err := h.ReadExpected(block)
		if err == io.EOF {
			return expected, nil
		}
		if err != nil {
			return nil, &requestError{err}
		}
		for i := range block[:n] {
			r := &block[i]
			key, flipped := r.Master()
			if !masters[master{key, flipped}] || !r.Shift(elapsed) {
				continue
			}
			if len(expected) == 2*conntrack.MaxExpectations {
				return nil, &requestError{fmt.Errorf("import connections: %w: more than %d expectations", conntrack.ErrHandover, 2*conntrack.MaxExpectations)}
			}
			expected = append(expected, *r)
		}
	}
}
