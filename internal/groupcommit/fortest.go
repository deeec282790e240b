package groupcommit

// Waiting is for tests. It returns how many operations wait for a lane.
func (c *Committer) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.grouped.waiting) + len(c.alone.waiting)
}

// Busy is for tests. It returns how many lanes are in use.
func (c *Committer) Busy() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grouped.busy + c.alone.busy
}
