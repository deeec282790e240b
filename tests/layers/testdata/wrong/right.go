package wrong

func right() { left() }
