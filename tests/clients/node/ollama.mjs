// The ollama package of npm.
import { Ollama } from "ollama";

import {
  base, description, drive, greeting, key, model, parameters, person, refusal, snow, story, tool,
  weather,
} from "./drive.mjs";

const opened = (key) =>
  new Ollama({ host: base, headers: { Authorization: `Bearer ${key}` } });
const client = opened(key);
const says = (content) => [{ role: "user", content }];
const described = { name: tool, description: "Of a city", parameters };
const tools = [{ type: "function", function: described }];

const twoSteps = async (ask) => {
  const messages = says(weather);
  const first = await ask(messages);
  const [call] = first.tool_calls;
  messages.push(first, { role: "tool", tool_name: tool, content: snow });
  const second = await ask(messages);
  const { name, arguments: given } = call.function;
  return { text: second.content, call: { name, arguments: given } };
};

await drive({
  async text() {
    const answer = await client.chat({ model, messages: says(greeting) });
    return { text: answer.message.content, usage: answer.prompt_eval_count + answer.eval_count };
  },

  async stream() {
    let text = "", parts = 0, usage;
    for await (const part of await client.chat({ model, messages: says(greeting), stream: true })) {
      if (part.message.content) parts++, (text += part.message.content);
      if (part.done) usage = part.prompt_eval_count + part.eval_count;
    }
    return { text, parts, usage };
  },

  tools: () =>
    twoSteps(async (messages) => (await client.chat({ model, messages, tools })).message),

  streamedTools: () =>
    twoSteps(async (messages) => {
      const whole = { role: "assistant", content: "", tool_calls: [] };
      for await (const part of await client.chat({ model, messages, tools, stream: true })) {
        whole.content += part.message.content;
        whole.tool_calls.push(...(part.message.tool_calls ?? []));
      }
      return whole;
    }),

  async structured() {
    const answer = await client.chat({ model, messages: says(description), format: person });
    return { value: JSON.parse(answer.message.content) };
  },

  async errors() {
    const ask = (more) => client.chat({ model, messages: says("Hi"), ...more });
    return {
      wrong: await refusal(() => ask({ options: { temperature: -3 } })),
      unknown: await refusal(() => ask({ model: "nobody" })),
      stranger: await refusal(() => opened("wrong").list()),
    };
  },

  async cancel() {
    const stream = await client.chat({ model, messages: says(story), stream: true });
    try {
      for await (const part of stream) {
        if (part.message.content) stream.abort();
      }
    } catch (error) {
      return { cancelled: error.name === "AbortError" };
    }
    return { cancelled: true };
  },
});
