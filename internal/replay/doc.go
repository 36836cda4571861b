// Package replay judges the frames of captures as the running firewall would have judged them: the same engine and
// worker over a wire that plays files (ring.Capture), in the files' own time.
//
// # Time
//
// The clock stands still but for the captures' timestamps. It begins with the first frame and never runs backwards: a
// frame whose timestamp is before an earlier frame's is judged at that one's time. Between two frames the time that passed
// is let pass: connections and fragments expire as they would have.
//
// # Sides
//
// Of two captures, one a port, each frame's port is its file's. In one capture of both, [Sides] finds it out.
//
// # Results
//
// A frame's result is known when the frame has been judged, before the next one is read: verdicts are in the files'
// order. A fragment is held until its datagram is complete; the result of the frame that completes it is that of
// the whole datagram, with which the held ones are sent or dropped.
package replay
