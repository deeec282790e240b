package low

import (
	"example.test/wrong/internal/beside"
)

const Answer = beside.Answer
