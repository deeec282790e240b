package high

const Answer = 42
