package rules

// otherMatches are modules of iptables that are refused, with the reason.
var otherMatches = map[string]string{
	"bpf": "programs are not run on packets here", "ipcomp": "there is no match for it here",
	"eui64": "there is no match for it here", "l2tp": "there is no match for it here", "osf": "there are no fingerprints here",
	"ipvs": "there are no virtual servers here", "nfacct": "rules have counters of their own", "rateest": "there are no rate estimators here",
	"cluster": "a wire is no member of a cluster of hosts with one address",
	"owner":   "no packet of the wire has a local process", "socket": "there are no local sockets here", "cgroup": "no packet of the wire has a local process",
	"rpfilter": "a transparent wire has no routes", "realm": "a transparent wire has no routes", "policy": "a transparent wire does no IPsec",
	"cpu": "which worker judges a packet must not matter", "devgroup": "the ports have no group",
}

// otherTargets are targets of iptables that are refused, with the reason.
var otherTargets = map[string]string{
	"QUEUE": "there is no user-space queue", "NFQUEUE": "there is no user-space queue",
	"DNAT": "a transparent wire does not translate addresses", "SNAT": "a transparent wire does not translate addresses",
	"MASQUERADE": "a transparent wire does not translate addresses", "REDIRECT": "a transparent wire does not translate addresses",
	"NETMAP": "a transparent wire does not translate addresses", "CLASSIFY": "there are no traffic classes here",
	"TPROXY": "there are no local sockets here",
	"ULOG":   "removed from Linux; use NFLOG", "TEE": "a wire has no route to a third host; use NFLOG",
	"TRACE": "there is no trace in a log; corewire explain tells it",
}
