// Command oracle compares corewire with the running kernel, frame by frame.
package main
