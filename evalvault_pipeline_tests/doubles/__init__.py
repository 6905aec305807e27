"""Servers that stand in for the LLM servers: real HTTP on loopback, answers from `judge_answers`, faults from `faults`."""
