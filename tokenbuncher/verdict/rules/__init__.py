"""The rules of the policy, each judged on sound evidence.

A stage that measures look by look asks the same claims whether they are settled; see `tokenbuncher.verdict.looks`.
"""
