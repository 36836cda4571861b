// Package packetlog is what LOG and NFLOG rules tell: packets as lines in the kernel's form, as JSON, and as pcapng; the
// last of them kept in memory for whoever asks; and a ring of capture files.
//
//	workers ──► dataplane.Engine.Logs ──► Log.Add ─┬─► memory: the last n entries ──► Log.Follow (corewire log)
//	                                               ├─► Files: a ring of pcapng files
//	                                               └─► Rate ──► the process's log
//
// The line is that of nf_log_syslog (net/netfilter/nf_log_syslog.c), so that what reads a Linux firewall's log reads
// this one. IN and OUT are the interfaces' names; there is no bridge, and so no PHYSIN and PHYSOUT.
//
// Nothing here is on a frame's way: a worker copies the packet into a ring and goes on.
package packetlog
