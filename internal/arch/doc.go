// Package arch holds the tests that keep the rooms of corewire apart: which package may import which, where unsafe
// may be used, which packages may ask the time or print. It has no code of its own.
package arch
