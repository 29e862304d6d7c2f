"""The Playground page: chatting with policies side by side, and letting one answer a set of prompts.

Not here: drawing the answers, and the chats' rows (`rlhf.generation`).
"""
