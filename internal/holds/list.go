package holds

// A holdList is a doubly linked list of holds, in the order in which they were added. A hold is in one list at most: in that of
// its lease while it is held, and in that of the losses once it is lost. Guarded by Table.mu, as are the links of a Hold.
type holdList struct {
	first, last *Hold
	len         int
}

func (l *holdList) add(h *Hold) {
	h.in, h.prev, h.next = l, l.last, nil
	if l.last == nil {
		l.first = h
	} else {
		l.last.next = h
	}
	l.last = h
	l.len++
}

// remove removes a hold, if it is in this list.
func (l *holdList) remove(h *Hold) bool {
	if h.in != l {
		return false
	}
	if h.prev == nil {
		l.first = h.next
	} else {
		h.prev.next = h.next
	}
	if h.next == nil {
		l.last = h.prev
	} else {
		h.next.prev = h.prev
	}
	h.in, h.prev, h.next = nil, nil, nil
	l.len--
	return true
}
