package wrong

// bottom uses a type, a field and a method of a file above it.

func bottom() {
	var s state
	s.count = 1
	s.grow()
}
