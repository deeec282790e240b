package holds

// Waiters returns how many goroutines wait for the reservation of a name. It is for tests.
func (t *Table) Waiters(name string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[name]; e != nil && e.waiters != nil {
		return e.waiters.Len()
	}
	return 0
}

// Size returns of how many names, losses and quit channels the Table knows. It is for tests.
func (t *Table) Size() (names, losses, quits int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries), t.losses.len, len(t.listeners)
}
