package rules

import "testing"

func TestSmoke(t *testing.T) {
	f, err := Parse("x", []byte("*filter\n:FORWARD DROP [1:2]\n:web - [0:0]\n-A FORWARD -p tcp -m tcp --dport 80 -j web\n-A web -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\nCOMMIT\n"), Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	_ = rs.NewMatcher()
}
