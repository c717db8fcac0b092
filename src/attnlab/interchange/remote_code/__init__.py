"""The files of an exported folder that transformers executes, copied as they are; attnlab imports none of them."""
