"""Who is calling, and what they may: identities, tokens, policy, rates and limits."""
