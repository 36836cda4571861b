package rules

// CommentMatch is -m comment: it matches always.
type CommentMatch struct{ Text string }

// Name returns "comment".
func (m *CommentMatch) Name() string { return "comment" }

// AppendSave implements Extension.
func (m *CommentMatch) AppendSave(b []byte) []byte {
	return appendQuoted(append(b, " --comment "...), m.Text)
}

func (*CommentMatch) compile(*compiler) {}
