package beside

import (
	"example.test/wrong/internal/high"
)

const Answer = high.Answer
