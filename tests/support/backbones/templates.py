"""Chat templates of each family's shape: roles, separators, image markers and end-of-turn tokens."""

from __future__ import annotations


def _template(
    *,
    image: str,
    before: str = "",
    user: str,
    assistant: str,
    user_end: str,
    assistant_end: str,
    prompt: str | None = None,
    system: str | None = None,
) -> str:
    """A template that prints `before`, then each message between its role's opening and closing text.

    Content may be a text or a list of typed parts. `prompt` opens the assistant's turn for generation.
    """

    def text(value: str) -> str:
        return "{{ " + repr(value) + " }}" if value else ""

    opening = (
        "{% if m['role'] == 'user' %}" + text(user) + "{% elif m['role'] == 'assistant' %}" + text(assistant)
        + ("{% else %}" + text(system) if system is not None else "") + "{% endif %}"
    )  # fmt: skip
    content = (
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}" + text(image) + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
    )
    closing = (
        "{% if m['role'] == 'assistant' %}"
        + text(assistant_end)
        + "{% else %}"
        + text(user_end)
        + "{% endif %}"
    )
    generation = (
        "{% if add_generation_prompt %}" + text(assistant if prompt is None else prompt) + "{% endif %}"
    )
    return (
        text(before) + "{% for m in messages %}" + opening + content + closing + "{% endfor %}" + generation
    )


def vicuna(image: str = "<image>\n") -> str:
    """`USER: ... ASSISTANT: ...</s>`: LLaVA-1.5, LLaVA-NeXT (Vicuna) and InstructBLIP (Vicuna)."""
    return _template(
        image=image,
        user="USER: ",
        assistant="ASSISTANT: ",
        user_end=" ",
        assistant_end="</s>",
        prompt="ASSISTANT:",
    )


def chatml(image: str, *, empty_thinking: bool = False) -> str:
    """`<|im_start|>role ... <|im_end|>`: Qwen-VL, InternVL, LLaVA-OneVision.

    `empty_thinking` as Qwen3's: a block that opens every answer, and not the prompt for one.
    """
    thinking = "<think>\n\n</think>\n\n" if empty_thinking else ""
    return _template(
        image=image,
        user="<|im_start|>user\n",
        assistant="<|im_start|>assistant\n" + thinking,
        system="<|im_start|>system\n",
        user_end="<|im_end|>\n",
        assistant_end="<|im_end|>\n",
        prompt="<|im_start|>assistant\n",
    )


def gemma(image: str = "<start_of_image>") -> str:
    """`<start_of_turn>role ... <end_of_turn>`, after the start token."""
    return _template(
        image=image,
        before="<bos>",
        user="<start_of_turn>user\n",
        assistant="<start_of_turn>model\n",
        user_end="<end_of_turn>\n",
        assistant_end="<end_of_turn>\n",
    )


def paligemma() -> str:
    """Image, start token, question and a new line; the answer ends with the end token."""
    return _template(image="<image>", user="", assistant="", user_end="\n", assistant_end="<eos>", prompt="")


def idefics() -> str:
    """`User: ...<end_of_utterance>` and `Assistant: ...`: Idefics3 and SmolVLM."""
    return _template(
        image="<image>",
        before="<|im_start|>",
        user="User:",
        assistant="Assistant: ",
        user_end="<end_of_utterance>\n",
        assistant_end="<end_of_utterance>\n",
        prompt="Assistant:",
    )


def llama3(image: str = "<|image|>") -> str:
    """`<|start_header_id|>role<|end_header_id|> ... <|eot_id|>`: Llama 3.2 Vision."""

    def header(role: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    return _template(
        image=image,
        before="<|begin_of_text|>",
        user=header("user"),
        assistant=header("assistant"),
        system=header("system"),
        user_end="<|eot_id|>",
        assistant_end="<|eot_id|>",
    )


def mistral(image: str = "[IMG]") -> str:
    """`<s>[INST]...[/INST]...</s>`: Pixtral and Mistral Small."""
    return _template(
        image=image,
        before="<s>",
        user="[INST]",
        assistant="",
        user_end="[/INST]",
        assistant_end="</s>",
        prompt="",
    )


# As published with llava-hf/llava-1.5-7b-hf and llava-v1.6-vicuna-7b-hf (chat_template.json),
# word for word: an answer ends with a blank, and no end-of-turn token follows it.
LLAVA_PUBLISHED = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}"
    "{% endif %}{# Render all images first #}{% for content in message['content'] | selectattr('type', "
    "'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != "
    "'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def glm() -> str:
    """`[gMASK]<sop>`, and turns that the next turn's role ends: GLM-4V."""
    return _template(
        image="<|begin_of_image|><|image|><|end_of_image|>",
        before="[gMASK]<sop>",
        user="<|user|>\n",
        assistant="<|assistant|>\n",
        system="<|system|>\n",
        user_end="",
        assistant_end="",
    )


def deepseek(image: str) -> str:
    """`User: ...` and `Assistant: ...` with two new lines between them: DeepSeek-VL."""
    return _template(
        image=image,
        before="<bos>",
        user="User: ",
        assistant="Assistant: ",
        user_end="\n\n",
        assistant_end="<eos>",
        prompt="Assistant:",
    )


def cohere(image: str) -> str:
    """Turn tokens around a role token, and a response token inside the answer: Aya Vision."""

    def turn(role: str) -> str:
        return f"<|START_OF_TURN_TOKEN|><|{role}_TOKEN|>"

    return _template(
        image=image,
        before="<BOS_TOKEN>",
        user=turn("USER"),
        assistant=turn("CHATBOT") + "<|START_RESPONSE|>",
        user_end="<|END_OF_TURN_TOKEN|>",
        assistant_end="<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    )


def gemma4_turns() -> str:
    """`<|turn>role ... <turn|>`: Gemma 4."""
    return _template(
        image="<|image|>",
        before="<bos>",
        user="<|turn>user\n",
        assistant="<|turn>model\n",
        system="<|turn>system\n",
        user_end="<turn|>\n",
        assistant_end="<turn|>\n",
    )


def llama4_turns() -> str:
    return _template(
        image="<|image|>",
        before="<|begin_of_text|>",
        user="<|header_start|>user<|header_end|>\n\n",
        assistant="<|header_start|>assistant<|header_end|>\n\n",
        user_end="<|eot|>",
        assistant_end="<|eot|>",
    )


def granite() -> str:
    """`<|user|>` and `<|assistant|>` on lines of their own: Granite Vision."""
    return _template(
        image="<image>\n",
        user="<|user|>\n",
        assistant="<|assistant|>\n",
        system="<|system|>\n",
        user_end="\n",
        assistant_end="<|end_of_text|>",
    )


def plain_turns(
    image: str,
    *,
    before: str = "",
    end: str = "</s>",
    user: str = "User: ",
    assistant: str = "Assistant: ",
    user_end: str = "\n",
) -> str:
    """Roles as words, and an end token behind the answer."""
    return _template(
        image=image,
        before=before,
        user=user,
        assistant=assistant,
        user_end=user_end,
        assistant_end=end,
        prompt=assistant.rstrip(),
    )
