package ring

// openXSK makes one wire per worker over own AF_XDP sockets and one UMEM, which is the pool. The first socket registers
// it; the others share it (XDP_SHARED_UMEM, across devices since Linux 5.10), so a frame crosses from port to port and
// from worker to worker without a copy in user space. Where a port cannot share with the first one because only one of
// them does zero copy, it registers the same memory once more.
//
// On error nothing is left open. Errors wrap the errno: EBUSY (another socket is bound to the queue), EINVAL (no such
// queue, or a kernel older than 5.10: errors.Is(err, errNoSharedUMEM); use openAsavie), EOPNOTSUPP (ZeroCopy asked for
// and not to be had), EPERM, ENODEV, ENETDOWN.
