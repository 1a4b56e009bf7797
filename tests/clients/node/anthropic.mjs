// The @anthropic-ai/sdk package of npm.
import Anthropic from "@anthropic-ai/sdk";

import {
  base, byCall, drive, greeting, key, model, parameters, person, personTool, refusal, snow, story,
  tool, weather,
} from "./drive.mjs";

const client = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });
const says = (content) => [{ role: "user", content }];
const usual = { model, max_tokens: 4096 };
const tools = [{ name: tool, description: "Of a city", input_schema: parameters }];

const textOf = (message) => message.content.map((block) => block.text ?? "").join("");
const called = (message) => message.content.find((block) => block.type === "tool_use");
const total = (usage) => usage.input_tokens + usage.output_tokens;

const twoSteps = async (ask) => {
  const messages = says(weather);
  const first = await ask({ ...usual, messages, tools });
  const { id, name, input } = called(first);
  const result = { type: "tool_result", tool_use_id: id, content: snow };
  messages.push({ role: "assistant", content: first.content }, { role: "user", content: [result] });
  const second = await ask({ ...usual, messages, tools });
  return { text: textOf(second), call: { name, arguments: input } };
};

await drive({
  async text() {
    const answer = await client.messages.create({ ...usual, messages: says(greeting) });
    return { text: textOf(answer), usage: total(answer.usage) };
  },

  async stream() {
    const stream = client.messages.stream({ ...usual, messages: says(greeting) });
    let text = "", parts = 0;
    stream.on("text", (part) => (parts++, (text += part)));
    const message = await stream.finalMessage();
    return { text, parts, usage: total(message.usage) };
  },

  tools: () => twoSteps((ask) => client.messages.create(ask)),

  streamedTools: () => twoSteps((ask) => client.messages.stream(ask).finalMessage()),

  async structured() {
    const answer = await client.messages.create({
      ...usual,
      messages: says(byCall),
      tools: [{ name: personTool, description: "A person", input_schema: person }],
      tool_choice: { type: "tool", name: personTool },
    });
    return { value: called(answer).input };
  },

  async errors() {
    const ask = (more) => client.messages.create({ ...usual, messages: says("Hi"), ...more });
    const stranger = client.withOptions({ apiKey: "wrong" });
    return {
      wrong: await refusal(() => ask({ temperature: -3 })),
      unknown: await refusal(() => ask({ model: "nobody" })),
      stranger: await refusal(() => stranger.messages.create({ ...usual, messages: says("Hi") })),
    };
  },

  async cancel() {
    const stream = client.messages.stream({ ...usual, messages: says(story) });
    for await (const event of stream) {
      if (event.type === "content_block_delta") break;
    }
    return { cancelled: stream.controller.signal.aborted };
  },
});
