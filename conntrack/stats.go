package conntrack

// Counters are a Table's cumulative counts. Those that Linux has, have Linux' names and meaning (struct
// ip_conntrack_stat, include/linux/netfilter/nf_conntrack_common.h; `conntrack -S`).
type Counters struct {
	Found         uint64 // packets for which Linux looks the table up for other reasons than tracking; always 0 here
	Invalid       uint64 // packets that could not be tracked
	Insert        uint64 // entries made
	InsertFailed  uint64 // entries that could not be made although the packet was accepted
	Drop          uint64 // packets dropped because no entry could be made
	EarlyDrop     uint64 // entries evicted to make room
	Error         uint64 // ICMP errors that belong to no connection or are malformed; not in Invalid
	SearchRestart uint64 // lookups repeated because of a resize; always 0: a shard has one user
	ClashResolve  uint64 // confirmations that found the connection already there
	ChainTooLong  uint64 // entries that found no slot in either bucket

	// Linux no longer counts the following.
	New       uint64 // connections begun, confirmed or not
	Delete    uint64 // entries removed, for whatever reason
	Expired   uint64 // of these, those whose time was over
	Collected uint64 // of these, those that the collection at 95 % took
	Full      uint64 // of Drop, those for lack of room ("table full")
	Untracked uint64 // packets that are not tracked by definition
	Helped    uint64 // of Drop, those that a helper dropped

	InvalidBy [Reasons]uint64 // INVALID packets by reason; Error's are among them
	PassedBy  [Reasons]uint64 // packets that passed but, for this reason, did not change their connection
}

// Add adds o to c, for totals over shards.
func (c *Counters) Add(o *Counters) {
	c.Found += o.Found
	c.Invalid += o.Invalid
	c.Insert += o.Insert
	c.InsertFailed += o.InsertFailed
	c.Drop += o.Drop
	c.EarlyDrop += o.EarlyDrop
	c.Error += o.Error
	c.SearchRestart += o.SearchRestart
	c.ClashResolve += o.ClashResolve
	c.ChainTooLong += o.ChainTooLong
	c.New += o.New
	c.Delete += o.Delete
	c.Expired += o.Expired
	c.Collected += o.Collected
	c.Full += o.Full
	c.Untracked += o.Untracked
	c.Helped += o.Helped
	for i := range c.InvalidBy {
		c.InvalidBy[i] += o.InvalidBy[i]
		c.PassedBy[i] += o.PassedBy[i]
	}
}

// Stats copies the counters to c.
func (t *Table) Stats(c *Counters) { *c = t.stats }
