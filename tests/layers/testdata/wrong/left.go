package wrong

func left() { right() }
