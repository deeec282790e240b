// Package wrong breaks the order of its layers.
package wrong

import "example.test/wrong/internal/fake"

type state struct{ count int }

func (s *state) grow() { s.count += fake.One }
