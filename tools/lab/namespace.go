package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where names one of the three namespaces of a lab.
type Where uint8

const (
	Client     Where = 0 // the end host on the inside
	Wire       Where = 1 // the namespace that holds the wire's two ports
	Server     Where = 2 // the end host on the outside
	namespaces       = 3
)

// String returns "client", "wire" or "server".
func (w Where) String() string {
	switch w {
	case Client:
		return "client"
	case Wire:
		return "wire"
	case Server:
		return "server"
	}
	return fmt.Sprintf("namespace %d", uint8(w))
}

// namespace is a pair of network and mount namespace, kept alive by two descriptors and a thread.
//
// The thread (the keeper) stays in the namespaces as long as the lab lives. It starts the commands, because the
// kernel delivers a child's parent-death signal when the thread that forked it ends, not when the process does (prctl(2)).
type namespace struct {
	net, mnt int         // descriptors of the two namespaces; -1 once closed
	work     chan func() // runs on the keeper; closed to end it
	ended    chan struct{}
}

// newNamespace returns namespaces made on a new thread. It needs CAP_SYS_ADMIN.
func newNamespace() (*namespace, error) {
	n := &namespace{net: -1, mnt: -1, work: make(chan func()), ended: make(chan struct{})}
	made := make(chan error)
	go n.keep(made)
	if err := <-made; err != nil {
		<-n.ended
		return nil, err
	}
	return n, nil
}

// keep is the keeper's life: it makes the namespaces, reports, and then runs what it is handed.
func (n *namespace) keep(made chan<- error) {
	defer close(n.ended)
	// Never unlocked: the runtime ends the thread together with the goroutine, so no other goroutine ever runs in here.
	runtime.LockOSThread()
	if err := n.make(); err != nil {
		n.closeFiles()
		made <- err
		return
	}
	made <- nil
	for f := range n.work {
		f()
	}
}

// make moves the calling thread into new namespaces and opens them.
func (n *namespace) make() error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare network and mount namespace: %w (root or CAP_SYS_ADMIN is needed)", err)
	}
	// Private: what is mounted here must not appear in the namespace we came from.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A sysfs shows the interfaces of the network namespace that it was mounted in. It hides the control groups,
	// from which the Go runtime reads its CPU limit: keep a copy of them and put it back.
	groups, groupsErr := unix.OpenTree(unix.AT_FDCWD, "/sys/fs/cgroup", unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	if groupsErr == nil {
		// Best effort: without it only the Go runtime's view of CPU limits is lost.
		_ = unix.MoveMount(groups, "", unix.AT_FDCWD, "/sys/fs/cgroup", unix.MOVE_MOUNT_F_EMPTY_PATH)
		_ = unix.Close(groups)
	}
	if err := unix.Mount("bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpf file system: %w", err)
	}
	var err error
	if n.net, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	if n.mnt, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open mount namespace: %w", err)
	}
	return nil
}

// do runs f on a thread of its own inside the namespaces and waits for it. The thread ends with f.
func (n *namespace) do(f func() error) error {
	err := errors.New("function ended its goroutine") // replaced unless f calls runtime.Goexit
	exited := true
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, see keep
		if enter := n.enter(); enter != nil {
			err, exited = enter, false
			return
		}
		err = f()
		exited = false
	}()
	<-done
	if exited { // f called t.FailNow or t.SkipNow: what it meant is the caller's goroutine
		runtime.Goexit()
	}
	return err
}

// enter moves the calling thread into the namespaces; there is no way back, so the thread must be thrown away.
func (n *namespace) enter() error {
	// A thread that shares its root and working directory with others may not change its mount namespace (setns(2)).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system attributes: %w", err)
	}
	if err := unix.Setns(n.mnt, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	if err := unix.Setns(n.net, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// start starts cmd on the keeper. The child gets SIGKILL when the keeper ends, unless the caller asked for another
// signal, and a process group of its own, so that an interrupt from the terminal reaches only this process.
func (n *namespace) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	result := make(chan error)
	n.work <- func() { result <- cmd.Start() }
	return <-result
}

// close ends the keeper and drops the descriptors. The kernel removes the namespaces when their last thread is gone.
func (n *namespace) close() error {
	close(n.work)
	<-n.ended
	return n.closeFiles()
}

func (n *namespace) closeFiles() error {
	var errs []error
	for _, fd := range []*int{&n.net, &n.mnt} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
			*fd = -1
		}
	}
	return errors.Join(errs...)
}
