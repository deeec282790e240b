package watch

// MaxStreams is for tests. It is how many streams the watches of a client are spread over for want of answers.
const MaxStreams = maxStreams

// StreamsLeft is for tests. It returns how many streams were left for want of an answer, and how many because they refused
// what may be read.
func (o *Opener) StreamsLeft() (silent, refused int64) { return o.silent.Load(), o.refused.Load() }
