package conntrack

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A handover is a stream of Records and of ExpectRecords, as `corewire conntrack export` writes and `import` reads it. All
// numbers are little endian; a checksum is the CRC-32C (Castagnoli, RFC 3720 appendix B.4) of everything from the start of
// the stream to itself, so that neither a changed, nor a missing, nor an exchanged block goes unnoticed.
//
//	header   "corewire"                 8 bytes
//	         version                    4 bytes: 2
//	         RecordSize                 4 bytes
//	         when the states were taken 8 bytes: ms since 1970-01-01 UTC
//	         checksum                   4 bytes
//	block    n                          4 bytes: 1 to 4096
//	         n Records
//	         checksum                   4 bytes
//	...
//	end      0                          4 bytes
//	         number of all Records      8 bytes
//	         checksum                   4 bytes
//	block    n                          4 bytes: 1 to 4096
//	         n ExpectRecords
//	         checksum                   4 bytes
//	...
//	end      0                          4 bytes
//	         number of ExpectRecords    8 bytes
//	         checksum                   4 bytes
//
// A reader knows version 1 as well, whose Records are shorter and which ends with the first end. It refuses versions that
// it does not know: a change of a record makes a new version.
const (
	handoverMagic   = "corewire"
	handoverVersion = 2
	handoverHeader  = 24
	handoverBlock   = 4096 // records; more would need larger buffers, less more checksums
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// RecordWriter writes a handover.
type RecordWriter struct {
	w      io.Writer
	sum    uint32
	n      uint64
	second bool // the connections are complete, what follows is what they expect
	buf    []byte
}

// NewRecordWriter writes the header. taken is the wall clock's time to which the records' times refer, in ms since 1970.
func NewRecordWriter(w io.Writer, taken int64) (*RecordWriter, error) {
	h := &RecordWriter{w: w}
	h.buf = append(h.buf, handoverMagic...)
	h.buf = le.AppendUint32(h.buf, handoverVersion)
	h.buf = le.AppendUint32(h.buf, RecordSize)
	h.buf = le.AppendUint64(h.buf, uint64(taken))
	if err := h.flush(); err != nil {
		return nil, err
	}
	return h, nil
}

// flush writes the buffer and the checksum of everything so far.
func (h *RecordWriter) flush() error {
	h.sum = crc32.Update(h.sum, castagnoli, h.buf)
	h.buf = le.AppendUint32(h.buf, h.sum)
	h.sum = crc32.Update(h.sum, castagnoli, h.buf[len(h.buf)-4:])
	_, err := h.w.Write(h.buf)
	h.buf = h.buf[:0]
	if err != nil {
		return fmt.Errorf("write handover: %w", err)
	}
	return nil
}

// Write writes connections as one block or several. None may follow what they expect.
func (h *RecordWriter) Write(records []Record) error {
	if h.second && len(records) > 0 {
		return errors.New("write handover: a connection behind expectations")
	}
	return writeBlocks(h, records, func(b []byte, r *Record) []byte { return append(b, r[:]...) })
}

// WriteExpected writes what the connections expect, as one block or several.
func (h *RecordWriter) WriteExpected(records []ExpectRecord) error {
	if err := h.endFirst(); err != nil {
		return err
	}
	return writeBlocks(h, records, func(b []byte, r *ExpectRecord) []byte { return append(b, r[:]...) })
}

func writeBlocks[T any](h *RecordWriter, records []T, put func([]byte, *T) []byte) error {
	for len(records) > 0 {
		n := min(len(records), handoverBlock)
		h.buf = le.AppendUint32(h.buf, uint32(n))
		for i := range records[:n] {
			h.buf = put(h.buf, &records[i])
		}
		h.n += uint64(n)
		records = records[n:]
		if err := h.flush(); err != nil {
			return err
		}
	}
	return nil
}

// endFirst writes the end of the connections, once.
func (h *RecordWriter) endFirst() error {
	if h.second {
		return nil
	}
	h.second = true
	return h.end()
}

// end writes an end.
func (h *RecordWriter) end() error {
	h.buf = le.AppendUint32(h.buf, 0)
	h.buf = le.AppendUint64(h.buf, h.n)
	h.n = 0
	return h.flush()
}

// Close writes the end. Without it no reader accepts the handover.
func (h *RecordWriter) Close() error {
	if err := h.endFirst(); err != nil {
		return err
	}
	return h.end()
}

// ErrHandover is the error of everything that is no handover, or a damaged one.
var ErrHandover = errors.New("not a complete handover of connections")

// RecordReader reads a handover.
type RecordReader struct {
	r     io.Reader
	taken int64
	size  int // of a Record in this version
	sum   uint32
	n     uint64
	left  []byte // records of the block that was not handed out
	buf   []byte
	ends  int // that were read
}

// NewRecordReader reads the header.
func NewRecordReader(r io.Reader) (*RecordReader, error) {
	h := &RecordReader{r: r, buf: make([]byte, handoverBlock*RecordSize+4)}
	head, err := h.read(handoverHeader)
	if err != nil {
		return nil, err
	}
	if string(head[:8]) != handoverMagic {
		return nil, fmt.Errorf("read handover: %w (it does not begin with %q)", ErrHandover, handoverMagic)
	}
	version, size, taken := le.Uint32(head[8:]), le.Uint32(head[12:]), int64(le.Uint64(head[16:]))
	switch {
	case version == handoverVersion && size == RecordSize:
		h.size = RecordSize
	case version == 1 && size == recordSize1:
		h.size = recordSize1
	default:
		return nil, fmt.Errorf("read handover: version %d with records of %d bytes: %w (this program knows version %d with %d)", version, size, ErrHandover, handoverVersion, RecordSize)
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	h.taken = taken
	return h, nil
}

// Taken returns the wall clock's time to which the records' times refer, in ms since 1970.
func (h *RecordReader) Taken() int64 { return h.taken }

// Read copies connections to out and returns how many they are; io.EOF behind the last. Every record has passed Check.
// Until ReadExpected has returned io.EOF as well nothing of it may be relied upon.
func (h *RecordReader) Read(out []Record) (n int, err error) {
	return readRecords(h, 0, h.size, out, func(b []byte, r *Record) error {
		*r = Record{}
		copy(r[:], b)
		if h.size == recordSize1 {
			r.fromFirst()
		}
		return r.Check()
	})
}

// ReadExpected copies what the connections expect to out, and returns how many they are; io.EOF behind the end, when the
// handover has proved complete. Read must have returned io.EOF before. Every record has passed Check.
func (h *RecordReader) ReadExpected(out []ExpectRecord) (n int, err error) {
	if h.size == recordSize1 {
		return 0, io.EOF
	}
	return readRecords(h, 1, ExpectRecordSize, out, func(b []byte, r *ExpectRecord) error {
		copy(r[:], b)
		return r.Check()
	})
}

// readRecords reads records of a size from the part before the end with number part.
func readRecords[T any](h *RecordReader, part, size int, out []T, take func([]byte, *T) error) (n int, err error) {
	for len(h.left) == 0 {
		if h.ends > part {
			return 0, io.EOF
		}
		if err := h.block(size); err != nil {
			return 0, err
		}
	}
	for n < len(out) && len(h.left) > 0 {
		if err := take(h.left[:size], &out[n]); err != nil {
			return n, fmt.Errorf("read handover: record %d: %w", h.n-uint64(len(h.left)/size)+1, err)
		}
		n++
		h.left = h.left[size:]
	}
	return n, nil
}

// block reads the next block of records, or an end.
func (h *RecordReader) block(size int) error {
	b, err := h.read(4)
	if err != nil {
		return err
	}
	n := le.Uint32(b)
	switch {
	case n > handoverBlock:
		return fmt.Errorf("read handover: a block of %d records: %w (at most %d)", n, ErrHandover, handoverBlock)
	case n > 0:
		if b, err = h.read(int(n) * size); err != nil {
			return err
		}
		h.left = append(h.left[:0], b...)
		h.n += uint64(n)
		return h.check()
	}
	if b, err = h.read(8); err != nil {
		return err
	}
	if total := le.Uint64(b); total != h.n {
		return fmt.Errorf("read handover: %d records where %d are announced: %w", h.n, total, ErrHandover)
	}
	if err := h.check(); err != nil {
		return err
	}
	h.n = 0
	if h.ends++; h.ends == 1 && h.size != recordSize1 {
		return nil
	}
	var more [1]byte
	if _, err := io.ReadFull(h.r, more[:]); err != io.EOF {
		return fmt.Errorf("read handover: something follows the end: %w", ErrHandover)
	}
	return nil
}

// read reads n bytes, which are valid until the next read.
func (h *RecordReader) read(n int) ([]byte, error) {
	b := h.buf[:n]
	if _, err := io.ReadFull(h.r, b); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w (it ends early)", ErrHandover)
		}
		return nil, fmt.Errorf("read handover: %w", err)
	}
	h.sum = crc32.Update(h.sum, castagnoli, b)
	return b, nil
}

// check reads a checksum.
func (h *RecordReader) check() error {
	want := h.sum
	b, err := h.read(4)
	if err != nil {
		return err
	}
	if le.Uint32(b) != want {
		return fmt.Errorf("read handover: wrong checksum: %w (it was changed after it was written)", ErrHandover)
	}
	return nil
}
