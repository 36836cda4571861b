package ring

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// capability is one that opening a link needs.
type capability struct {
	bit  int
	name string
	why  string
}

// capabilities are those that Open needs, from the kernel's checks: bpf_capable (kernel/bpf/syscall.c), ns_capable
// CAP_NET_ADMIN (net/core/rtnetlink.c, net/ethtool/ioctl.c, bpf_prog_load for XDP), CAP_NET_RAW (xsk_create in
// net/xdp/xsk.c).
var capabilities = [...]capability{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "attach XDP programs, change interface settings"},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", "open AF_XDP sockets"},
	{unix.CAP_BPF, "CAP_BPF", "load BPF programs and maps"},
}

// mountCapability is needed only where no bpffs is mounted yet.
var mountCapability = capability{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "mount bpffs"}

// missingCapabilities returns an error that names the effective capabilities which the calling thread lacks, nil if it
// has all. CAP_SYS_ADMIN stands for CAP_BPF, as it does in the kernel. mount asks for mountCapability too.
func missingCapabilities(mount bool) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	has := func(bit int) bool { return d[bit/32].Effective&(1<<(bit%32)) != 0 }
	var missing []string
	for _, c := range capabilities {
		if !has(c.bit) && (c.bit != unix.CAP_BPF || !has(unix.CAP_SYS_ADMIN)) {
			missing = append(missing, c.name+" to "+c.why)
		}
	}
	if mount && !has(mountCapability.bit) {
		missing = append(missing, mountCapability.name+" to "+mountCapability.why)
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("%w: lacks %s (run as root, or give the process these capabilities)", unix.EPERM, strings.Join(missing, ", "))
}
