"""The Playground page: chatting with policies side by side, and letting one answer a prompt set.

Not here: drawing the answers, and the chats' rows (`rlhf.generation`).
"""
