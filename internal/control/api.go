package control

import (
	"corewire/internal/config"
)

// The paths of the API, all under the unix socket. Answers are JSON unless noted; an error is an Error with a status
// of 400 or above.
const (
	pathStatus    = "/v1/status"           // GET: Status
	pathStats     = "/v1/stats"            // GET: Stats
	pathConntrack = "/v1/conntrack"        // GET with a Filter as query: a stream of lines; DELETE: Flushed
	pathDelete    = "/v1/conntrack/delete" // POST with a Filter as query: a stream of lines, those that were deleted
	pathUpdate    = "/v1/conntrack/update" // POST with a Filter and set-timeout, set-status, set-state, set-mark, label-add, label-del: likewise
	pathEvents    = "/v1/conntrack/events" // GET with a Filter: a stream of lines that does not end; "# lost N" says that N were missed so far
	pathZero      = "/v1/conntrack/zero"   // POST with a Filter: likewise, those whose counters were set to zero, as they were
	pathExport    = "/v1/conntrack/export" // GET: a handover (package conntrack)
	pathImport    = "/v1/conntrack/import" // POST of a handover: Imported
	pathExpect    = "/v1/expect"           // GET with a Filter: a stream of lines; DELETE: Flushed
	pathUnexpect  = "/v1/expect/delete"    // POST with a Filter: a stream of lines, those that were deleted
	pathExpecting = "/v1/expect/events"    // GET with a Filter: as pathEvents
	pathCount     = "/v1/conntrack/count"  // GET: Count
	pathTrackers  = "/v1/conntrack/stats"  // GET: []TrackerStats
	pathLog       = "/v1/log"              // GET with a LogFilter as query: a stream of lines, JSON objects, or a capture
	pathRules     = "/v1/rules"            // GET: []ChainCounters; POST with RuleChange: RuleChanged
	pathSave      = "/v1/rules/save"       // GET with family (4, 6), table, counters=1: iptables-save text
	pathExplain   = "/v1/explain"          // POST with ExplainRequest: Explained
	pathReload    = "/v1/reload"           // POST with ReloadOptions: Reloaded
	pathRecent    = "/v1/recent"           // GET: []RecentList; GET with list=NAME: RecentList; POST of a RecentChange: RecentChanged
	pathConfig    = "/v1/config"           // GET: []config.Value; PATCH with name → text: []config.Change
	pathMetrics   = "/metrics"             // GET: Prometheus text, here and on the metrics address
	pathHealth    = "/healthz"             // GET: "ok", or 503 and why not, likewise
	trailerError  = "Corewire-Error"       // trailer of a stream that ended early, with the reason
	maxRequest    = 1 << 20                // bytes of a request's body
	typeLines     = "text/plain; charset=utf-8"
	typeJSONLines = "application/x-ndjson"
	typeXML       = "application/xml; charset=utf-8"
	typeHandover  = "application/octet-stream"
	typeCapture   = "application/x-pcapng"
)

// Error is the body of an answer with an error status.
type Error struct {
	Error string `json:"error"`
}

// Status says what runs.
type Status struct {
	Version    string  `json:"version"`
	PID        int     `json:"pid"`
	Uptime     float64 `json:"uptime_seconds"`
	Wire       Wire    `json:"wire"`
	Rules      int     `json:"rules"`      // number of rules in force
	Changes    int     `json:"changes"`    // changes of single rules that are in no file
	Reloads    int     `json:"reloads"`    // rule sets put in force since start, the first not counted
	Recompiled int     `json:"recompiled"` // times that the rules in force were compiled anew in the background, after changes of single rules
	Config     string  `json:"config"`     // configuration file, "" for none
	Workers    int     `json:"workers"`
}

// Wire says what the ports really are and what was really got, not what was asked for.
type Wire struct {
	Driver    string  `json:"driver"`             // xsk or asavie
	Fallback  string  `json:"fallback,omitempty"` // why it is asavie though auto was asked for
	FailMode  string  `json:"fail_mode"`          // closed or open
	Heartbeat float64 `json:"heartbeat_timeout_seconds"`
	ChunkSize int     `json:"chunk_size"` // bytes
	PinPath   string  `json:"pin_path"`
	StateFile string  `json:"state_file"`
	Ports     []Port  `json:"ports"` // inside, outside
}

// Port is one port of the Wire.
type Port struct {
	Port       string   `json:"port"` // inside or outside
	Interface  string   `json:"interface"`
	Driver     string   `json:"driver"` // the interface's own
	MTU        int      `json:"mtu"`
	Queues     int      `json:"queues"`
	XDPMode    string   `json:"xdp_mode"`    // native or generic
	CopyMode   string   `json:"copy_mode"`   // copy, zerocopy, or on how many queues
	NeedWakeup int      `json:"need_wakeup"` // queues whose driver says when it must be woken
	SharedUMEM int      `json:"shared_umem"` // queues whose socket shares another one's UMEM
	TXBudget   int      `json:"tx_budget"`   // frames per send call in copy mode
	Up         bool     `json:"up"`          // carrier
	TakenOver  bool     `json:"taken_over"`  // from a killed process
	Changed    []string `json:"changed"`     // interface settings that are restored at the end, with what they were
	Notes      []string `json:"notes"`
}

// Stats is a snapshot of all counters since start. Maps have every name that exists, also those that count 0.
type Stats struct {
	Total   Counters                     `json:"total"` // over all workers; maxima are the largest
	Workers []Counters                   `json:"workers"`
	Entries int                          `json:"entries"`       // connections tracked
	Max     int                          `json:"max"`           // and their maximum
	XDP     map[string]map[string]uint64 `json:"xdp,omitempty"` // by port, then by what the XDP program did with frames
	Expect  ExpectStats                  `json:"expect"`
	// Listeners is how many listen to events of connections or expectations.
	Listeners int `json:"listeners"`
}

// ExpectStats are the counters of what helpers expect.
type ExpectStats struct {
	Entries  int               `json:"entries"` // connections that are expected
	Max      int               `json:"max"`     // and their maximum
	Counters map[string]uint64 `json:"counters"`
	Events   EventCounters     `json:"events"`
}

// EventCounters count events, each once for every listener.
type EventCounters struct {
	Told uint64 `json:"told"` // given to a listener
	Lost uint64 `json:"lost"` // lost to a listener that was too slow
}

// Counters are one worker's, or the sum of all workers'.
type Counters struct {
	Ports     map[string]PortCounters `json:"ports"`     // inside and outside
	Verdicts  map[string]uint64       `json:"verdicts"`  // frames
	Drops     map[string]uint64       `json:"drops"`     // frames, by reason
	States    map[string]uint64       `json:"states"`    // packets, by state as the rules saw it
	Classes   map[string]uint64       `json:"classes"`   // frames, by link-layer class
	Cached    uint64                  `json:"cached"`    // packets decided by a cached verdict
	Matched   uint64                  `json:"matched"`   // packets decided by walking the rules
	Logged    uint64                  `json:"logged"`    // packets told of by LOG and NFLOG rules, once for each rule
	LogLost   uint64                  `json:"log_lost"`  // of which nobody could be told, because too many came at once
	Handed    uint64                  `json:"handed"`    // frames handed to other workers
	Taken     uint64                  `json:"taken"`     // frames taken over from other workers
	Answered  uint64                  `json:"answered"`  // frames that REJECT rules sent back
	Limited   uint64                  `json:"limited"`   // those that they did not, because of icmp_ratelimit or icmp_msgs_per_sec
	Events    EventCounters           `json:"events"`    // of connections
	Loops     uint64                  `json:"loops"`     // turns of the worker's loop
	Busy      uint64                  `json:"busy"`      // turns that found a frame
	Sleeps    uint64                  `json:"sleeps"`    // times the worker slept
	MaxBurst  uint64                  `json:"max_burst"` // frames
	MaxTurn   uint64                  `json:"max_turn_ns"`
	Entries   int                     `json:"entries"`   // connections of this worker's shard
	Buckets   int                     `json:"buckets"`   // of the hash table
	Held      int                     `json:"held"`      // fragments that wait for the rest of their datagram
	Conntrack map[string]uint64       `json:"conntrack"` // by the kernel's names
	Invalid   map[string]uint64       `json:"invalid"`   // INVALID packets, by the check that failed
	Passed    map[string]uint64       `json:"passed"`    // packets that passed and changed nothing of their connection, by the check that they failed
	Fragments map[string]uint64       `json:"fragments"` // datagrams and fragments, by outcome
	Regrouped map[string]uint64       `json:"regrouped"` // the same of those that other workers handed over, who count them as well
	Chunks    Chunks                  `json:"chunks"`
}

// PortCounters are one port's.
type PortCounters struct {
	RxFrames uint64            `json:"rx_frames"`
	RxBytes  uint64            `json:"rx_bytes"` // whole frames, without FCS
	TxFrames uint64            `json:"tx_frames"`
	TxBytes  uint64            `json:"tx_bytes"`
	Wire     map[string]uint64 `json:"wire"` // the driver's and the kernel's (XDP_STATISTICS)
}

// Chunks says where the UMEM's chunks are. The sum over all workers adds up to total when no frame moves.
type Chunks struct {
	Total      int  `json:"total"`
	Free       int  `json:"free"`
	Returning  int  `json:"returning"`
	Fill       int  `json:"fill"`
	RX         int  `json:"rx"`
	TX         int  `json:"tx"`
	Completion int  `json:"completion"`
	Caller     int  `json:"caller"`     // with the worker
	HandedOff  int  `json:"handed_off"` // of these, in hand-off rings
	Held       int  `json:"held"`       // of these, held fragments
	Balanced   bool `json:"balanced"`   // meaningful for the sum only
}

// Count is the number of tracked connections.
type Count struct {
	Count int `json:"count"`
	Max   int `json:"max"`
}

// Flushed says how many connections were deleted.
type Flushed struct {
	Flushed int `json:"flushed"`
}

// TrackerStats are one worker's counters of connection tracking, by the kernel's names.
type TrackerStats struct {
	Worker   int               `json:"worker"`
	Entries  int               `json:"entries"`
	Counters map[string]uint64 `json:"counters"`
}

// Reloaded is what a reload did.
type Reloaded struct {
	Warnings []string        `json:"warnings"` // what in the rule files has no effect
	Changes  []config.Change `json:"changes"`  // settings that differ from before
	Rules    int             `json:"rules"`    // number of rules in force now

	Discarded int       `json:"discarded"`          // changes of single rules that are gone, as they are not in the files
	Rejudged  *Rejudged `json:"rejudged,omitempty"` // what became of the connections, if they were judged again
}

// Rejudged says how many connections were judged again by new rules, and how many of them closed.
type Rejudged struct {
	Judged int    `json:"judged"`
	Closed int    `json:"closed"`
	Ended  string `json:"ended,omitempty"` // why not all of them were judged; "": they were
}
