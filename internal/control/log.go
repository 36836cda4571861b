package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/config"
	"corewire/internal/packet"
	"corewire/internal/packetlog"
)

// logbook is what becomes of what LOG and NFLOG rules tell: the last entries in memory, files, and the process's log.
type logbook struct {
	log    *packetlog.Log
	files  *packetlog.Files // nil: none
	names  [packet.Ports]string
	engine atomic.Pointer[dataplane.Engine] // for the time of ticks; nil until it is made
	line   func(level slog.Level, text string)
	rate   atomic.Int64 // lines a second for line; 0: none

	second int64     // that lines were counted in
	lines  int64     // written in it
	held   uint64    // left out since the last line
	failed time.Time // when an error of files was last told
}

// newLogbook opens the files that the settings name.
func newLogbook(c *config.Config, line func(slog.Level, string)) (*logbook, error) {
	b := &logbook{log: packetlog.New(c.LogHistory), names: [packet.Ports]string{c.Inside, c.Outside}, line: line}
	for p := range b.names {
		if b.names[p] == "" {
			b.names[p] = packet.Port(p).String()
		}
	}
	b.rate.Store(int64(c.LogRate))
	if c.LogCapture == "" {
		return b, nil
	}
	var err error
	b.files, err = packetlog.OpenFiles(c.LogCapture, int64(c.LogCaptureSize)<<20, c.LogCaptureFiles, b.names[packet.Inside], b.names[packet.Outside])
	return b, err
}

// close completes the files.
func (b *logbook) close() error {
	if b.files == nil {
		return nil
	}
	return b.files.Close()
}

// severities are slog's levels by syslog's severity (RFC 5424 section 6.2.1).
var severities = [8]slog.Level{slog.LevelError, slog.LevelError, slog.LevelError, slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelInfo, slog.LevelDebug}

// take is the engine's Config.Log.
func (b *logbook) take(logged []dataplane.Logged) {
	engine := b.engine.Load()
	if engine == nil {
		return
	}
	now := time.Now()
	entries := make([]packetlog.Entry, 0, len(logged))
	for i := range logged {
		entries = append(entries, b.entry(&logged[i], now.Add(-engine.Ago(logged[i].At))))
	}
	b.log.Add(entries)
	if b.files != nil {
		if err := b.files.Write(entries); err != nil && b.line != nil && now.Sub(b.failed) > time.Minute {
			b.failed = now
			b.line(slog.LevelError, err.Error())
		}
	}
	for i := range entries {
		if entries[i].Target != "NFLOG" {
			b.tell(&entries[i], now)
		}
	}
}

// entry makes an entry of what a worker told.
func (b *logbook) entry(l *dataplane.Logged, at time.Time) packetlog.Entry {
	if l.Rules == nil {
		return b.invalid(l, at)
	}
	info, _ := l.Rules.Rule(l.Rule) // what is logged is told of a rule
	rule := info.Rule
	t := rule.Target.Log
	frame := l.Frame()
	if t.Name() == "NFLOG" && t.Size != 0 { // counted from the IP header, as nfnetlink_log does
		frame = frame[:min(len(frame), l.L3+int(min(t.Size, dataplane.LoggedBytes)))]
	}
	e := packetlog.Entry{
		Time: at, Target: t.Name(), Prefix: t.Prefix, Level: t.Level & 7, Group: t.Group, Rule: l.Rules.RuleName(l.Rule),
		Line: rule.Pos.File + ":" + strconv.Itoa(rule.Pos.Line), In: b.names[l.In], Out: b.names[l.In.Other()], Port: l.In, Mark: l.Mark,
		Length: l.Length, L3: l.L3, End: l.End, Frame: append([]byte(nil), frame...),
		Sequence: t.Sequence, TCPOptions: t.TCP, IPOptions: t.IP, MACDecode: t.MAC,
	}
	if l.Tracked {
		e.State = l.State.String()
	}
	return e
}

// invalid makes an entry of a packet that connection tracking found INVALID; the prefix begins as the kernel's
// (nf_l4proto_log_invalid), and says which check failed in the words of the counters.
func (b *logbook) invalid(l *dataplane.Logged, at time.Time) packetlog.Entry {
	why := l.Why.String()
	if l.Why == conntrack.ReasonMalformed {
		why = l.Problem.String()
	}
	return packetlog.Entry{
		Time: at, Target: packetlog.Invalid, Prefix: fmt.Sprintf("nf_ct_proto_%d: %s ", l.Proto, why), Level: 5, State: l.State.String(),
		In: b.names[l.In], Out: b.names[l.In.Other()], Port: l.In, Mark: l.Mark, Length: l.Length, L3: l.L3, End: l.End, Frame: append([]byte(nil), l.Frame()...),
	}
}

// tell writes an entry's line to the process's log, within the rate.
func (b *logbook) tell(e *packetlog.Entry, now time.Time) {
	rate := b.rate.Load()
	if b.line == nil || rate == 0 {
		return
	}
	if s := now.Unix(); s != b.second {
		if b.held > 0 {
			b.line(slog.LevelWarn, fmt.Sprintf("%d more packets were logged (setting log-rate; corewire log shows the last ones)", b.held))
		}
		b.second, b.lines, b.held = s, 0, 0
	}
	if b.lines++; b.lines > rate {
		b.held++
		return
	}
	b.line(severities[e.Level], strings.TrimRight(string(e.AppendLine(nil)), " "))
}

// LogFilter chooses entries of the packet log. The zero value lets all through that are kept.
type LogFilter struct {
	Format  Format // FormatLines, FormatJSON, or FormatCapture
	Last    int    // only the last so many of those that are meant; negative: all that are kept
	Follow  bool   // go on with those that come
	Target  string // LOG, NFLOG or INVALID; "" for all
	Prefix  string // what the rule's prefix begins with
	Group   int    // NFLOG group; negative: any
	Stamped bool   // FormatLines: the time in front
}

func (f *LogFilter) query() url.Values {
	q := url.Values{"last": {strconv.Itoa(f.Last)}, "group": {strconv.Itoa(f.Group)}}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("format", string(f.Format))
	set("target", f.Target)
	set("prefix", f.Prefix)
	if f.Follow {
		q.Set("follow", "1")
	}
	if f.Stamped {
		q.Set("stamped", "1")
	}
	return q
}

// FormatCapture is pcapng, for a packet log.
const FormatCapture Format = "pcapng"

func parseLogFilter(q url.Values) (LogFilter, error) {
	f := LogFilter{Format: Format(q.Get("format")), Target: strings.ToUpper(q.Get("target")), Prefix: q.Get("prefix"), Follow: q.Get("follow") != "", Stamped: q.Get("stamped") != "", Last: -1, Group: -1}
	switch f.Format {
	case "", FormatJSON, FormatCapture:
	default:
		return f, fmt.Errorf("format is %q: expected json or pcapng, or nothing for lines", f.Format)
	}
	if f.Target != "" && f.Target != "LOG" && f.Target != "NFLOG" && f.Target != packetlog.Invalid {
		return f, fmt.Errorf("target is %q: expected LOG, NFLOG or INVALID", f.Target)
	}
	for name, field := range map[string]*int{"last": &f.Last, "group": &f.Group} {
		if text := q.Get(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil {
				return f, fmt.Errorf("%s is %q: expected a number", name, text)
			}
			*field = n
		}
	}
	if f.Group > 65535 {
		return f, fmt.Errorf("group is %d: expected 0 to 65535", f.Group)
	}
	return f, nil
}

// admits reports whether an entry is asked for.
func (f *LogFilter) admits(e *packetlog.Entry) bool {
	return (f.Target == "" || e.Target == f.Target) && strings.HasPrefix(e.Prefix, f.Prefix) && (f.Group < 0 || e.Target == "NFLOG" && int(e.Group) == f.Group)
}

// serveLog streams the packet log.
func (f *Firewall) serveLog(w http.ResponseWriter, r *http.Request) {
	filter, err := parseLogFilter(r.URL.Query())
	if err != nil {
		respond(w, http.StatusBadRequest, Error{"stream packet log: " + err.Error()})
		return
	}
	kind := typeLines
	switch filter.Format {
	case FormatJSON:
		kind = typeJSONLines
	case FormatCapture:
		kind = typeCapture
	}
	out := newStream(w, kind)
	write, err := logWriter(out, &filter, f.logbook.names)
	if err == nil {
		err = out.push()
	}
	if filter.Last < 0 {
		filter.Last = math.MaxInt
	}
	from := f.logbook.log.Last(filter.Last, filter.admits)
	var told uint64
	if err == nil {
		err = f.logbook.log.Follow(r.Context(), from, filter.Follow, func(entries []packetlog.Entry, missed uint64) error {
			if err := out.extend(); err != nil {
				return err
			}
			for i := range entries {
				if !filter.admits(&entries[i]) {
					continue
				}
				if err := write(&entries[i]); err != nil {
					return err
				}
			}
			if told += missed; missed > 0 && filter.Format != FormatCapture {
				if _, err := out.WriteString(lostPrefix + strconv.FormatUint(told, 10) + "\n"); err != nil {
					return err
				}
			}
			return out.push()
		})
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	out.end("stream packet log", err)
}

// logWriter returns what writes an entry in the form that is asked for.
func logWriter(out io.Writer, filter *LogFilter, names [packet.Ports]string) (func(*packetlog.Entry) error, error) {
	var line []byte
	switch filter.Format {
	case FormatCapture:
		c, err := packetlog.NewCapture(out, names[packet.Inside], names[packet.Outside])
		if err != nil {
			return nil, err
		}
		return func(e *packetlog.Entry) error { return errors.Join(c.Write(e), c.Flush()) }, c.Flush()
	case FormatJSON:
		return func(e *packetlog.Entry) error {
			text, err := json.Marshal(e.JSON())
			if err == nil {
				_, err = out.Write(append(text, '\n'))
			}
			return err
		}, nil
	}
	return func(e *packetlog.Entry) error {
		line = line[:0]
		if filter.Stamped {
			line = append(e.Time.AppendFormat(line, "2006-01-02T15:04:05.000000Z07:00"), ' ')
		}
		line = append(e.AppendLine(line), '\n')
		_, err := out.Write(line)
		return err
	}, nil
}
