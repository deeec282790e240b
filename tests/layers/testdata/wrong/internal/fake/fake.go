package fake

const One = 1
