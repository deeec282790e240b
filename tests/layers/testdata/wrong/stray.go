package wrong

func stray() { bottom() }
