//go:build !cwdebug

package ring

import "corewire/internal/packet"

// owners does nothing without the build tag cwdebug: see owner_debug_unsafe.go.
type owners struct{}

func (*owners) init(int)                       {}
func (*owners) move(uint32, owner, owner)      {}
func (*owners) moveAll([]uint32, owner, owner) {}
func (*owners) check(*Pool, *packet.Frame)     {}
